//! Recursive loops: how often a chain of calls has reached a function already. Pure.
//!
//! A guest gets the chain that it is called by in its trace header, as `Lineage=1:HASH:CALLS|HASH:CALLS`, and SDKs send that
//! header along with the calls that they make inside a function. So a function that calls itself, over whatever others,
//! arrives here with its own number of calls. Who leaves the header away is not seen.

use std::fmt::Write as _;

use model::{FunctionRef, FunctionVersion, InvokeError};

/// How often a chain may call one function. Source: Lambda's recursive loop detection.
pub(crate) const CALLS_IN_CHAIN_MAX: u32 = 16;
/// Functions of a chain that are counted; of a longer one those that were called most.
const COUNTED_MAX: usize = 24;
const LINEAGE: &str = "Lineage=";
/// Of a function and its calls in a header.
const LINK_BYTES: usize = 12;

/// Refuses the call of a function that its chain has called too often, unless the function is to allow that.
pub(crate) fn check(trace: Option<&str>, version: &FunctionVersion) -> Result<(), InvokeError> {
    let Some(lineage) = trace.and_then(lineage_of).filter(|_| !version.allows_recursion) else { return Ok(()) };
    let own = hash(&version.function);
    match parsed(lineage).find(|(function, _)| *function == own) {
        Some((_, calls)) if calls >= CALLS_IN_CHAIN_MAX => Err(looped(&version.function)),
        _ => Ok(()),
    }
}

/// Of the headers that come with one call the one to go on with: whose chain has called the function most often, of like ones
/// the first.
pub(crate) fn foremost<'a>(traces: impl Iterator<Item = &'a str>, function: &FunctionRef) -> Option<&'a str> {
    let own = hash(function);
    let calls = |trace: &str| {
        let chain = lineage_of(trace).into_iter().flat_map(parsed);
        chain.filter(|(function, _)| *function == own).map(|(_, calls)| calls).max().unwrap_or(0)
    };
    traces.reduce(|first, next| if calls(next) > calls(first) { next } else { first })
}

/// What is said of a call that was stopped.
pub(crate) fn looped(function: &FunctionRef) -> InvokeError {
    InvokeError::Recursive(format!(
        "Lambda detected that the function {} was being invoked in a recursive loop with other AWS resources and stopped \
         it after {CALLS_IN_CHAIN_MAX} invocations.",
        function.arn()
    ))
}

/// The trace header that a guest gets: with this call counted. Without a header there is none.
pub(crate) fn counted(trace: Option<&str>, function: &FunctionRef) -> Option<String> {
    let trace = trace?;
    let own = hash(function);
    let mut chain: Vec<(u32, u32)> = lineage_of(trace).into_iter().flat_map(parsed).collect();
    match chain.iter_mut().find(|(function, _)| *function == own) {
        Some((_, calls)) => *calls = calls.saturating_add(1),
        None => chain.push((own, 1)),
    }
    if chain.len() > COUNTED_MAX {
        chain.sort_by_key(|(function, calls)| (*function != own, std::cmp::Reverse(*calls)));
        chain.truncate(COUNTED_MAX);
    }
    let mut header = String::with_capacity(trace.len() + LINEAGE.len() + chain.len() * LINK_BYTES);
    for field in trace.split(';').filter(|field| !field.is_empty() && !field.starts_with(LINEAGE)) {
        header.push_str(field);
        header.push(';');
    }
    header.push_str(LINEAGE);
    for (number, (function, calls)) in chain.iter().enumerate() {
        // A string takes everything.
        let _ = write!(header, "{}{function:08x}:{calls}", if number == 0 { "1:" } else { "|" });
    }
    Some(header)
}

/// The chain of a header.
fn lineage_of(trace: &str) -> Option<&str> {
    model::trace::field(trace, "Lineage")
}

/// Functions and their calls. Some clients write the bar as `%7C`.
fn parsed(lineage: &str) -> impl Iterator<Item = (u32, u32)> {
    let chain = lineage.split_once(':').map_or("", |(_, chain)| chain);
    chain.split('|').flat_map(|part| part.split("%7C")).filter_map(|part| {
        let (function, calls) = part.split_once(':')?;
        Some((u32::from_str_radix(function, 16).ok()?, calls.parse().ok()?))
    })
}

/// Names a function in a header: FNV-1a of its account, region and name.
fn hash(function: &FunctionRef) -> u32 {
    let parts = [function.account.as_str(), function.region.as_str(), function.name.as_str()];
    parts
        .iter()
        .flat_map(|part| part.bytes().chain([0]))
        .fold(0x811c_9dc5, |hash: u32, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::fixtures::{reference, version};
    use proptest::prelude::*;

    fn chain(names: &[&str]) -> String {
        let start = "Root=1-a-b;Sampled=0".to_owned();
        names.iter().fold(start, |trace, name| counted(Some(&trace), &reference(name)).unwrap())
    }

    #[test]
    fn a_chain_counts_each_of_its_functions() {
        let trace = chain(&["f", "g", "f"]);
        let (f, g) = (hash(&reference("f")), hash(&reference("g")));
        assert_eq!(trace, format!("Root=1-a-b;Sampled=0;Lineage=1:{f:08x}:2|{g:08x}:1"));
        assert_eq!(counted(None, &reference("f")), None);
        // As botocore writes it.
        let quoted = trace.replace('|', "%7C");
        assert_eq!(counted(Some(&quoted), &reference("g")), counted(Some(&trace), &reference("g")));
    }

    #[test]
    fn the_seventeenth_call_is_refused_unless_it_is_allowed() {
        let (function, mut allows) = (version("f"), version("f"));
        allows.allows_recursion = true;
        for calls in 0..20 {
            let trace = chain(&vec!["f"; calls]);
            assert_eq!(check(Some(&trace), &function).is_err(), calls >= 16, "after {calls}");
            assert!(check(Some(&trace), &allows).is_ok());
            assert!(check(Some(&trace), &version("g")).is_ok());
        }
        assert!(check(None, &function).is_ok());
    }

    #[test]
    fn of_several_headers_the_longest_chain_of_the_function_goes_on() {
        let traces = [chain(&["g", "g", "g"]), chain(&["f"]), chain(&["f", "f"]), chain(&["f", "f", "g"])];
        let foremost =
            |traces: &[String]| foremost(traces.iter().map(String::as_str), &reference("f")).map(str::to_owned);
        assert_eq!(foremost(&traces), Some(traces[2].clone()));
        assert_eq!(foremost(&traces[..1]), Some(traces[0].clone()));
        assert_eq!(foremost(&[]), None);
    }

    #[test]
    fn a_long_chain_keeps_what_was_called_most() {
        let others: Vec<String> = (0..40).map(|number| format!("g{number}")).collect();
        let mut names = vec!["f"; 16];
        names.extend(others.iter().map(String::as_str));
        let trace = chain(&names);
        assert!(trace.len() < 600, "{trace}");
        assert!(check(Some(&trace), &version("f")).is_err());
    }

    proptest! {
        #[test]
        fn noise_is_no_chain(noise in ".{0,80}") {
            let _ = check(Some(&noise), &version("f"));
            let trace = counted(Some(&noise), &reference("f")).unwrap();
            prop_assert!(parsed(lineage_of(&trace).unwrap()).any(|(function, calls)| function == hash(&reference("f")) && calls >= 1));
        }
    }
}
