//! Marks: texts in the guest's console that cut a run into phases, and the text that ends it. A line of options has them escaped,
//! as RFC 3986 2.1 escapes: `%` and two hexadecimal digits.

use core::fmt::{self, Write};

/// The most marks of a run.
pub const MOST_MARKS: usize = 16;
/// The most bytes of a mark's name.
pub const MOST_NAME_BYTES: usize = 24;
/// The most bytes of a mark's text.
pub const MOST_TEXT_BYTES: usize = 64;

/// A mark: the moment at which the console shows its text for the first time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its text.
    pub text: Text<'a>,
}

impl<'a> Mark<'a> {
    /// Reads `name=text`, the text escaped.
    fn parse(item: &'a str) -> Option<Self> {
        let (name, text) = item.split_once('=')?;
        is_name(name).then_some(Self { name, text: Text::parse(text)? })
    }
}

/// A text as an option has it, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Text<'a>(&'a str);

impl<'a> Text<'a> {
    /// Reads an escaped text; `None` if it is none that the console can show on one line, or is too long.
    pub fn parse(escaped: &'a str) -> Option<Self> {
        let bytes = || unescaped(escaped);
        let is_text =
            bytes().all(|byte| byte.is_some_and(is_shown)) && (1..=MOST_TEXT_BYTES).contains(&bytes().count());
        is_text.then_some(Self(escaped))
    }

    /// The text as an option has it.
    pub fn escaped(self) -> &'a str {
        self.0
    }

    /// Its bytes.
    pub fn bytes(self) -> impl Iterator<Item = u8> + use<'a> {
        unescaped(self.0).flatten()
    }
}

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.bytes().try_for_each(|byte| f.write_char(byte.into()))
    }
}

/// The bytes that an escaped text stands for; `None` where an escape is cut off or has other digits.
fn unescaped(escaped: &str) -> impl Iterator<Item = Option<u8>> + use<'_> {
    let mut rest = escaped.bytes();
    core::iter::from_fn(move || {
        let byte = rest.next()?;
        if byte != b'%' {
            return Some(Some(byte));
        }
        let mut digit = || rest.next().and_then(|digit| char::from(digit).to_digit(16));
        Some(digit().zip(digit()).map(|(high, low)| (high << 4 | low) as u8))
    })
}

/// Whether a mark may have this name: letters, digits, `-`, `_` and `.`.
pub fn is_name(name: &str) -> bool {
    let is_of_one = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    (1..=MOST_NAME_BYTES).contains(&name.len()) && name.bytes().all(is_of_one)
}

/// Whether a mark may have this text: printable ASCII.
pub fn is_text(text: &str) -> bool {
    (1..=MOST_TEXT_BYTES).contains(&text.len()) && text.bytes().all(is_shown)
}

fn is_shown(byte: u8) -> bool {
    (b' '..=b'~').contains(&byte)
}

/// A text, displayed as an option has it.
#[derive(Clone, Copy, Debug)]
pub struct Escaped<'a>(pub &'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:/".contains(&byte);
        self.0.bytes().try_for_each(
            |byte| {
                if is_plain(byte) { f.write_char(byte.into()) } else { write!(f, "%{byte:02X}") }
            },
        )
    }
}

/// The marks of an option's value, `name=text` with commas between; each that is none as its words.
pub(crate) fn items(value: &str) -> impl Iterator<Item = Result<Mark<'_>, &str>> + use<'_> {
    let items = value.split(',').filter(move |_| !value.is_empty());
    items.map(|item| Mark::parse(item).ok_or(item))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::string::{String, ToString};
    use std::vec::Vec;

    #[test]
    fn a_mark_is_read_as_it_is_written() {
        let value = std::format!("kernel={},init={}", Escaped("Linux version"), Escaped("a=b, 100%"));
        assert_eq!(value, "kernel=Linux%20version,init=a%3Db%2C%20100%25");
        let marks: Vec<_> = items(&value).map(|mark| mark.map(|mark| (mark.name, mark.text.to_string()))).collect();
        assert_eq!(marks, [Ok(("kernel", "Linux version".to_string())), Ok(("init", "a=b, 100%".to_string()))]);
        assert_eq!(items("").count(), 0);
    }

    #[test]
    fn a_mark_that_is_none_is_told_as_it_stands() {
        let long = [
            std::format!("{}=x", "n".repeat(MOST_NAME_BYTES + 1)),
            std::format!("n={}", "x".repeat(MOST_TEXT_BYTES + 1)),
        ];
        for item in ["kernel", "=x", "n=", "a b=x", "n=%2", "n=%zz", "n=%0A", "n=%80", "n=\u{e4}", &long[0], &long[1]] {
            assert_eq!(items(item).collect::<Vec<_>>(), [Err(item)], "{item}");
        }
        assert_eq!(items("n=x,").last(), Some(Err("")));
    }

    proptest! {
        #[test]
        fn any_text_comes_through(text in "[ -~]{1,64}") {
            let escaped = Escaped(&text).to_string();
            prop_assert!(is_text(&text) && !escaped.contains([' ', ',', '=', '"']));
            prop_assert_eq!(Text::parse(&escaped).map(|text| text.to_string()), Some(text));
        }

        #[test]
        fn any_value_is_read_without_panic(value in "\\PC{0,80}") {
            let _ = items(&value).filter_map(Result::ok).map(|mark| mark.text.bytes().count()).collect::<Vec<_>>();
            let _: String = Escaped(&value).to_string();
        }
    }
}
