//! The comparison of what was asked for with what ran, both in their order.

/// The names of those that were asked for and did not run; `None` if others ran.
pub(super) fn left_out<A, R>(
    asked: impl Iterator<Item = A>,
    ran: &[R],
    is_it: impl Fn(&A, &R) -> bool,
    named: impl Fn(&A) -> String,
) -> Option<Vec<String>> {
    let mut ran = ran.iter().peekable();
    let missing = asked.filter(|asked| ran.next_if(|run| is_it(asked, run)).is_none());
    let missing = missing.map(|asked| named(&asked)).collect();
    ran.next().is_none().then_some(missing)
}
