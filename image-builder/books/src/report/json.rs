//! One account as JSON.

use serde::Serialize;

use super::Titled;
use crate::account::Account;

/// An account among several, which says where it is from.
#[derive(Serialize)]
struct Sourced<'a> {
    source: &'a str,
    #[serde(flatten)]
    account: &'a Account,
}

/// An account as JSON, and where it is from if that is asked for.
pub(super) fn json(Titled { title, account }: &Titled, sourced: bool) -> String {
    let text = if sourced {
        serde_json::to_string_pretty(&Sourced { source: title, account })
    } else {
        serde_json::to_string_pretty(account)
    };
    // Maps have string keys and numbers are finite, so there is nothing that JSON can't hold.
    text.unwrap_or_default()
}
