//! Marks and the text that ends a run, as the command line names them.

use tollgate_abi::marks::{MOST_MARKS, MOST_NAME_BYTES, MOST_TEXT_BYTES, is_name, is_text};
use tollgate_books::failure::Failure;

use crate::selection::GuestKind;

/// The marks of a run: the guest's own, in their order, and those that are asked for. One of the same name as one of the guest's
/// takes its place.
pub(super) fn of(own: &[(&str, &str)], asked: &[String]) -> Result<Vec<(String, String)>, Failure> {
    let mut marks: Vec<(String, String)> = own.iter().map(|&(name, text)| (name.to_owned(), text.to_owned())).collect();
    let mut is_asked = vec![false; own.len()];
    for item in asked {
        let (name, text) = split(item)?;
        match marks.iter().position(|mark| mark.0 == name) {
            Some(at) if is_asked[at] => {
                let sentence = format!("two marks are called `{name}`");
                return Err(Failure::usage(sentence).remedy("give each a name of its own"));
            }
            Some(at) => (marks[at].1, is_asked[at]) = (text.to_owned(), true),
            None => {
                marks.push((name.to_owned(), text.to_owned()));
                is_asked.push(true);
            }
        }
    }
    if marks.len() > MOST_MARKS {
        let sentence = format!("{} marks are too many, the guest's own among them", marks.len());
        return Err(Failure::usage(sentence).remedy(format_args!("choose at most {MOST_MARKS}")));
    }
    Ok(marks)
}

fn split(item: &str) -> Result<(&str, &str), Failure> {
    let refused =
        |what: &str, remedy: String| Err(Failure::usage(format_args!("--mark {item}: {what}")).remedy(remedy));
    let Some((name, text)) = item.split_once('=') else {
        return refused("a mark has a name and a text", "write --mark 'NAME=TEXT'".to_owned());
    };
    if !is_name(name) {
        let remedy = format!("choose 1 to {MOST_NAME_BYTES} letters, digits, and any of - _ .");
        return refused("a mark can't have this name", remedy);
    }
    if !is_text(text) {
        return refused("a mark can't have this text", a_text());
    }
    Ok((name, text))
}

/// The text that ends a run.
pub(super) fn until(text: &str, guest: GuestKind) -> Result<String, Failure> {
    if guest != GuestKind::WithoutBook {
        let sentence = "--until would end a guest that keeps a book before it hands that over";
        return Err(Failure::usage(sentence).remedy("add --no-book"));
    }
    if !is_text(text) {
        return Err(Failure::usage(format_args!("--until {text}: no console line has this text")).remedy(a_text()));
    }
    Ok(text.to_owned())
}

fn a_text() -> String {
    format!("choose 1 to {MOST_TEXT_BYTES} characters of ASCII that can be seen, or spaces; a part of a line is enough")
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: [(&str, &str); 2] = [("kernel", "Linux version "), ("init", "as init process")];

    fn marks(asked: &[&str]) -> Result<Vec<String>, String> {
        let asked: Vec<_> = asked.iter().map(|&item| item.to_owned()).collect();
        let marks = of(&OWN, &asked).map_err(|failure| failure.to_string())?;
        Ok(marks.into_iter().map(|(name, text)| format!("{name}={text}")).collect())
    }

    #[test]
    fn marks_are_added_to_those_of_the_guest_or_take_their_places() {
        let (kernel, init) = ("kernel=Linux version ", "init=as init process");
        assert_eq!(marks(&[]), Ok(vec![kernel.to_owned(), init.to_owned()]));
        let both = marks(&["up=x=y", "kernel=Booting"]).unwrap();
        assert_eq!(both, ["kernel=Booting", init, "up=x=y"]);
    }

    #[test]
    fn a_mark_that_can_not_be_is_refused_with_a_sentence() {
        let refused = |asked: &[&str], what: &str| {
            let failure = marks(asked).unwrap_err();
            assert!(failure.contains(what) && failure.contains("remedy"), "{failure}");
        };
        refused(&["up"], "--mark up: a mark has a name and a text");
        refused(&["=x"], "can't have this name");
        refused(&["a b=x"], "can't have this name");
        refused(&["up="], "can't have this text");
        refused(&["up=\u{e4}"], "can't have this text");
        refused(&[&format!("up={}", "x".repeat(65))], "choose 1 to 64 characters");
        refused(&["up=x", "up=y"], "two marks are called `up`");
        let many: Vec<String> = (0..15).map(|at| format!("m{at}=x")).collect();
        refused(&many.iter().map(String::as_str).collect::<Vec<_>>(), "17 marks are too many");
    }

    #[test]
    fn only_a_guest_without_a_book_is_ended_by_a_text() {
        assert_eq!(until("login: ", GuestKind::WithoutBook).unwrap(), "login: ");
        let refused = until("login: ", GuestKind::Other).unwrap_err().to_string();
        assert!(refused.ends_with("remedy: add --no-book"), "{refused}");
        assert!(until("", GuestKind::WithoutBook).unwrap_err().to_string().contains("no console line"));
    }
}
