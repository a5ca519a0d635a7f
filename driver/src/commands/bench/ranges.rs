//! Lists of numbers with ranges, as `llama-bench` takes them.

use std::str::FromStr;

/// Most numbers of a list: each is measured.
const MOST: usize = 1000;

/// Numbers in the order in which they were given.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Numbers(pub(super) Vec<usize>);

/// What a list is made of.
const UNDERSTOOD: &str = "a list has numbers and ranges with commas between them: 512, 1-8, 0-4096+1024 (steps of \
                          1024), 1-32*2 (doubling)";

impl FromStr for Numbers {
    type Err = String;

    fn from_str(text: &str) -> Result<Numbers, String> {
        let all = text.split(',').map(part).collect::<Result<Vec<_>, String>>()?;
        let numbers = all.concat();
        match numbers.len() {
            0..=MOST => Ok(Numbers(numbers)),
            count => Err(format!("{count} numbers are more than the {MOST} that are measured at most")),
        }
    }
}

/// One number or one range.
fn part(text: &str) -> Result<Vec<usize>, String> {
    let wrong = |why: &str| format!("'{text}' is no range: {why}; {UNDERSTOOD}");
    let number = |digits: &str| {
        let read = digits.trim().parse::<u32>().map(|n| n as usize);
        read.map_err(|_| wrong(&format!("'{}' is no number", digits.trim())))
    };
    let Some((first, rest)) = text.split_once('-') else { return Ok(vec![number(text)?]) };
    let (last, factor, step) = match (rest.split_once('*'), rest.split_once('+')) {
        (Some((last, factor)), None) => (last, number(factor)?, 0),
        (None, Some((last, step))) => (last, 1, number(step)?),
        (None, None) => (rest, 1, 1),
        (Some(_), Some(_)) => return Err(wrong("it has a step and a factor")),
    };
    let (first, last) = (number(first)?, number(last)?);
    if last < first {
        return Err(wrong("it ends before it begins"));
    }
    let next = |n: &usize| n.checked_mul(factor)?.checked_add(step);
    if next(&first).is_none_or(|n| n <= first) {
        return Err(wrong("it does not grow"));
    }
    Ok(std::iter::successors(Some(first), next).take_while(|n| *n <= last).take(MOST + 1).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_have_numbers_and_ranges() {
        let read = |text: &str| text.parse::<Numbers>().map(|n| n.0);
        assert_eq!(read("128,512").unwrap(), [128, 512]);
        assert_eq!(read("1-32*2").unwrap(), [1, 2, 4, 8, 16, 32]);
        assert_eq!(read("0-4096+2048, 7").unwrap(), [0, 2048, 4096, 7]);
        assert_eq!(read("3-5").unwrap(), [3, 4, 5]);
    }

    #[test]
    fn what_is_no_range_is_told_with_what_is_understood() {
        for (text, why) in [
            ("8-4", "ends before"),
            ("1-8*1", "does not grow"),
            ("0-8*2", "does not grow"),
            ("1-8+0", "does not grow"),
            ("a", "'a' is no number"),
            ("1-", "'' is no number"),
            ("1-8*2+1", "a step and a factor"),
            ("0-100000", "more than"),
        ] {
            let error = text.parse::<Numbers>().unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
        assert!("8-4".parse::<Numbers>().unwrap_err().contains("1-32*2 (doubling)"));
    }
}
