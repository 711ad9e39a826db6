//! A sink that counts the records that go through it, so that the last of them can tell a reader how many there are.

use core::fmt::{self, Write};

/// A sink for records and nothing else: each of them ends with the one line feed that it has.
#[derive(Debug)]
pub struct Counted<W> {
    pub(super) sink: W,
    pub(super) records: u64,
}

impl<W> Counted<W> {
    pub(super) fn new(sink: W) -> Self {
        Self { sink, records: 0 }
    }
}

impl<W: Write> Write for Counted<W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.records += u64::from(text.ends_with('\n'));
        self.sink.write_str(text)
    }
}

#[cfg(test)]
mod tests {
    use std::string::String;
    use std::vec::Vec;

    use tollgate_abi::judgement::Judgement;
    use tollgate_abi::record::{Kind, Record, parse};

    use crate::session::Session;

    #[test]
    fn the_verdict_tells_the_records_before_it_and_not_lines_that_are_none() {
        let mut session = Session::new(String::new());
        session.sink().push('\n');
        session.remark(format_args!("(monitor) one line\nand another"));
        session.sink().push_str("firmware says something\n");
        session.remark(format_args!(""));
        session.write_verdict(Judgement::Refused, format_args!("no\nVT-x"), None);
        let text = session.sink().clone();
        let records: Vec<Record<'_>> = text.lines().filter_map(|line| parse(line.as_bytes()).ok()).collect();
        let kinds: Vec<Kind> = records.iter().map(|record| record.kind).collect();
        assert_eq!(kinds, [Kind::Console, Kind::Console, Kind::Verdict]);
        assert_eq!(records[2].number("records"), Some(2));
    }

    #[test]
    fn an_end_of_a_log_by_others_does_not_tell_how_many_records_there_are() {
        let mut session = Session::at_end(String::new());
        session.write_verdict(Judgement::Fault, format_args!("why"), None);
        assert_eq!(parse(session.sink().as_bytes()).unwrap().number("records"), None);
    }
}
