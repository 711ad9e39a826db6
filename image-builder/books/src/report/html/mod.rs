//! Accounts as one page that needs nothing else: style, script, charts and the figures as JSON are in it. Everything but sorting
//! works without the script. Text from a log is escaped, since `maud` writes it.

mod charts;
mod compare;
mod flags;
mod merged;
mod run;
mod tables;
mod timeline;

use std::io::{self, Write};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use sha2::{Digest, Sha256};

use super::json::json;
use super::{Form, Look, Titled};
use crate::account::Merged;

const STYLE: &str = include_str!("page.css");
const SORT: &str = include_str!("sort.js");

/// The id of the element with the figures.
const FIGURES: &str = "figures";

/// The most runs that a page has room for.
const MOST_ON_A_PAGE: u64 = 100;

/// The page.
#[derive(Debug)]
pub(super) struct Page {
    look: Look,
    kept: Vec<Titled>,
}

impl Page {
    pub(super) fn new(look: Look) -> Self {
        Self { look, kept: Vec::new() }
    }
}

impl Form for Page {
    fn most(&self) -> u64 {
        MOST_ON_A_PAGE
    }

    fn has_order(&self) -> bool {
        true
    }

    fn add(&mut self, titled: Titled, _: &mut dyn Write) -> io::Result<()> {
        self.kept.push(titled);
        Ok(())
    }

    fn finish(&mut self, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(render(&self.kept, self.look).as_bytes())
    }

    fn merged(&self, merged: &Merged) -> String {
        merged::render(merged, self.look)
    }
}

/// Writes accounts as a page: each run, and where there are several, first their comparison.
fn render(accounts: &[Titled], look: Look) -> String {
    let title = match accounts {
        [only] => format!("{} on {}", only.account.verdict, run::platform(&only.account)),
        several => format!("{} runs compared", several.len()),
    };
    let figures = match accounts {
        [only] => json(only, false),
        several => format!("[{}]", several.iter().map(|titled| json(titled, true)).collect::<Vec<_>>().join(",\n")),
    };
    let body = html! {
        @if let [only] = accounts {
            (run::section(only, None, look))
        } @else {
            h1 { (accounts.len()) " runs compared" }
            (compare::section(accounts, look))
            @for (at, titled) in accounts.iter().enumerate() {
                (run::section(titled, Some(&compare::letter(at)), look))
            }
        }
    };
    page(&title, &body, &figures)
}

/// A page around its contents. `figures` is a JSON document.
pub(super) fn page(title: &str, body: &Markup, figures: &str) -> String {
    // Nothing may be loaded, and no script run but the one below, whatever the figures hold.
    let script = BASE64_STANDARD.encode(Sha256::digest(SORT));
    let policy = format!(
        "default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{script}'; img-src data:; \
         base-uri 'none'; form-action 'none'"
    );
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta http-equiv="Content-Security-Policy" content=(policy);
                meta name="color-scheme" content="light dark";
                // Without an icon of its own, a browser asks the server that the page came from.
                link rel="icon" href="data:,";
                title { (title) " \u{2013} Tollgate" }
                style { (PreEscaped(STYLE)) }
            }
            body {
                main { (body) }
                footer {
                    p {
                        "Written by tollgate " (env!("CARGO_PKG_VERSION")) ". A tick is one of the time-stamp counter. The figures \
                         are in this page as JSON, too, in the element " code { "#" (FIGURES) } "."
                    }
                }
                script type="application/json" id=(FIGURES) { (PreEscaped(inert(figures))) }
                script { (PreEscaped(SORT)) }
            }
        }
    };
    page.into_string() + "\n"
}

/// JSON that ends no element, whatever its strings hold.
fn inert(json: &str) -> String {
    json.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026")
}

/// A number with its thousands apart.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().filter_map(|group| std::str::from_utf8(group).ok()).collect();
    groups.join("\u{202f}")
}
