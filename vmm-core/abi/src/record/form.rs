//! The forms of a record's fields: the values that the writer is handed, and those that the reader gets.

use core::fmt::{self, Write};

use super::{Index, Text, Writer, Written};

/// A form of a field.
pub trait Form {
    /// The value that is written.
    type Written<'a>;
    /// The value that is read.
    type Read<'a>;
    /// The form in words, for the document.
    const WORDS: &'static str;
    /// Whether a record may lack the field.
    const MAY_LACK: bool = false;

    /// Writes `key=value`.
    fn write<'w, W: Write + ?Sized>(writer: Writer<'w, W>, key: &str, value: &Self::Written<'_>) -> Writer<'w, W>;

    /// Reads the field; `None` if it is absent or malformed.
    fn read<'a>(record: &Index<'_, 'a>, key: &str) -> Option<Self::Read<'a>>;

    /// Reads the field where it comes next, in the form in which a writer writes it; `None` if anything differs.
    fn next<'a>(fields: &mut Written<'a>, key: &str) -> Option<Self::Read<'a>>;
}

macro_rules! forms {
    ($($(#[doc = $about:literal])+ $form:ident $words:literal
        $written:ty => $read:ty { |$writer:ident, $key:ident, $value:ident| $write:expr; |$record:ident| $get:expr; |$fields:ident| $next:expr })*) => {
        $(
            $(#[doc = $about])+
            #[derive(Clone, Copy, Debug)]
            pub enum $form {}

            impl Form for $form {
                type Written<'a> = $written;
                type Read<'a> = $read;
                const WORDS: &'static str = $words;

                fn write<'w, W: Write + ?Sized>($writer: Writer<'w, W>, $key: &str, $value: &Self::Written<'_>) -> Writer<'w, W> {
                    $write
                }

                #[inline(always)]
                fn read<'a>($record: &Index<'_, 'a>, $key: &str) -> Option<Self::Read<'a>> {
                    $get
                }

                #[inline(always)]
                fn next<'a>($fields: &mut Written<'a>, key: &str) -> Option<Self::Read<'a>> {
                    if $fields.key(key) { $next } else { None }
                }
            }
        )*
    };
}

forms! {
    /// A number, decimal.
    Number "number" u64 => u64 { |writer, key, value| writer.number(key, *value); |record| record.number(key); |fields| fields.number() }
    /// A number, hexadecimal.
    Hex "number in hexadecimal" u64 => u64 { |writer, key, value| writer.hex(key, *value); |record| record.number(key); |fields| fields.hex() }
    /// The number of an exit reason's row.
    Reason "number of a reason" u16 => u16 {
        |writer, key, value| writer.number(key, u64::from(*value));
        |record| record.number(key).and_then(|number| number.try_into().ok());
        |fields| fields.number().and_then(|number| number.try_into().ok())
    }
    /// A bare word out of a table.
    Word "word" &'a str => Text<'a> { |writer, key, value| writer.word(key, value); |record| record.text(key); |fields| fields.bare().map(Text::of) }
    /// Any text, quoted.
    Quoted "text" &'a dyn fmt::Display => Text<'a> { |writer, key, value| writer.text(key, value); |record| record.text(key); |fields| fields.quoted() }
    /// Exits by power of two of their ticks.
    Histogram "`bucket:count,…`" &'a [u64] => Buckets<'a> {
        |writer, key, value| writer.histogram(key, value);
        |record| Buckets::of(record.raw(key)?);
        |fields| Buckets::of(fields.bare()?)
    }
    /// Runs of equal samples.
    Runs "`ticks:count,…`" &'a [(u32, u32)] => EqualRuns<'a> {
        |writer, key, value| writer.runs(key, value);
        |record| EqualRuns::of(record.raw(key)?);
        |fields| EqualRuns::of(fields.bare()?)
    }
    /// Numbers with commas between them.
    Numbers "numbers, comma-separated" &'a [u32] => Listed<'a> {
        |writer, key, value| writer.numbers(key, value.iter().map(|&number| number.into()));
        |record| Listed::of(record.raw(key)?);
        |fields| Listed::of(fields.bare()?)
    }
    /// A value that displays without spaces and quotes.
    Packed "packed" &'a dyn fmt::Display => &'a str { |writer, key, value| writer.packed(key, value); |record| record.raw(key); |fields| fields.bare() }
}

/// A field that a record may lack.
#[derive(Clone, Copy, Debug)]
pub struct Optional<F>(core::marker::PhantomData<F>);

impl<F: Form> Form for Optional<F> {
    type Written<'a> = Option<F::Written<'a>>;
    type Read<'a> = Option<F::Read<'a>>;
    const WORDS: &'static str = F::WORDS;
    const MAY_LACK: bool = true;

    fn write<'w, W: Write + ?Sized>(writer: Writer<'w, W>, key: &str, value: &Self::Written<'_>) -> Writer<'w, W> {
        match value {
            Some(value) => F::write(writer, key, value),
            None => writer,
        }
    }

    #[inline(always)]
    fn read<'a>(record: &Index<'_, 'a>, key: &str) -> Option<Self::Read<'a>> {
        match record.raw(key) {
            None => Some(None),
            Some(_) => F::read(record, key).map(Some),
        }
    }

    #[inline(always)]
    fn next<'a>(fields: &mut Written<'a>, key: &str) -> Option<Self::Read<'a>> {
        if fields.comes(key) { F::next(fields, key).map(Some) } else { Some(None) }
    }
}

macro_rules! lists {
    ($($(#[doc = $about:literal])+ $list:ident of $item:ty, $what:literal: $parse:expr, $filter:expr;)*) => {
        $(
            $(#[doc = $about])+
            #[derive(Clone, Copy, Debug, PartialEq, Eq)]
            pub struct $list<'a>(&'a str);

            impl<'a> $list<'a> {
                fn of(raw: &'a str) -> Option<Self> {
                    let items = || raw.split(',').filter($filter);
                    items().all(|item| $parse(item).is_some()).then_some(Self(raw))
                }

                #[doc = $what]
                pub fn iter(&self) -> impl Iterator<Item = $item> + use<'a> {
                    self.0.split(',').filter($filter).filter_map($parse)
                }
            }
        )*
    };
}

lists! {
    /// The pairs of a histogram, checked.
    Buckets of (u8, u64), "Each bucket, and the number of its exits.": bucket, |item: &&str| !item.is_empty();
    /// Runs of equal samples, checked.
    EqualRuns of (u32, u32), "The ticks of equal samples in a row, and their number.": run, |_: &&str| true;
    /// Numbers, checked.
    Listed of u64, "The numbers.": |item: &str| item.parse::<u64>().ok(), |_: &&str| true;
}

fn bucket(item: &str) -> Option<(u8, u64)> {
    let (bucket, count) = item.split_once(':')?;
    let bucket: u8 = bucket.parse().ok()?;
    (bucket < 64).then_some((bucket, count.parse().ok()?))
}

fn run(item: &str) -> Option<(u32, u32)> {
    let (ticks, count) = item.split_once(':')?;
    let count: u32 = count.parse().ok()?;
    (count > 0).then_some((ticks.parse().ok()?, count))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::string::ToString;
    use std::vec::Vec;

    /// A form with a sample for the test of the round trip.
    pub(in crate::record) trait Sample: Form {
        fn written() -> Self::Written<'static>;
        fn is_read_as_written(read: &Self::Read<'_>) -> bool;
    }

    macro_rules! samples {
        ($($form:ident $written:expr, |$read:ident| $same:expr;)*) => {
            $(impl Sample for $form {
                fn written() -> Self::Written<'static> {
                    $written
                }

                fn is_read_as_written($read: &Self::Read<'_>) -> bool {
                    $same
                }
            })*
        };
    }

    samples! {
        Number u64::MAX, |read| *read == u64::MAX;
        Hex 0xfee0_0000, |read| *read == 0xfee0_0000;
        Reason 134, |read| *read == 134;
        Word "virtual-apic", |read| read.as_plain() == Some("virtual-apic");
        Quoted &"a \"quoted\" \\ line", |read| read.to_string() == "a \"quoted\" \\ line";
        Histogram &[0, 3, 0, 7], |read| read.iter().eq([(1, 3), (3, 7)]);
        Runs &[(60, 2), (61, 1)], |read| read.iter().eq([(60, 2), (61, 1)]);
        Numbers &[0, 9, 7], |read| read.iter().eq([0, 9, 7]);
        Packed &"a1,b2", |read| *read == "a1,b2";
    }

    impl<F: Sample> Sample for Optional<F> {
        fn written() -> Self::Written<'static> {
            Some(F::written())
        }

        fn is_read_as_written(read: &Self::Read<'_>) -> bool {
            read.as_ref().is_some_and(F::is_read_as_written)
        }
    }

    #[test]
    fn a_list_with_something_else_in_it_is_none() {
        for raw in ["1:2,x", "64:1", "1", "1:-1"] {
            assert_eq!(Buckets::of(raw), None, "{raw}");
        }
        assert_eq!(Buckets::of("").unwrap().iter().count(), 0);
        for raw in ["", "5:0", "5", "5:1,", "4294967296:1"] {
            assert_eq!(EqualRuns::of(raw), None, "{raw}");
        }
        for raw in ["", "1,", "1,a", "-1"] {
            assert_eq!(Listed::of(raw), None, "{raw}");
        }
        assert_eq!(Listed::of("0,18446744073709551615").unwrap().iter().collect::<Vec<_>>(), [0, u64::MAX]);
    }
}
