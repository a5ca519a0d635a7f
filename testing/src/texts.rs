//! The texts of the pipelines that launchers ask for, by walking the list of kernels.

use selfreward::gpu::Variant;
use selfreward::kernels::{ALL, Constant, Kernel, Traits, Way};
use std::collections::{BTreeSet, HashMap, HashSet};

/// The text of a pipeline.
pub struct Text {
    /// Its op.
    pub kernel: &'static Kernel,
    /// The entry point with its constants.
    pub way: Way,
    /// The text itself.
    pub wgsl: String,
}

/// Some of all pipelines, in the order of the list, as [`covering`] chooses them.
///
/// # Errors
/// A text that does not have an entry point, a library or a constant.
pub fn texts() -> Result<Vec<Text>, selfreward::Error> {
    let mut all = Vec::new();
    for kernel in ALL {
        for way in covering(Traits::all().iter().flat_map(kernel.ways).collect()) {
            let wgsl = way.wgsl()?;
            all.push(Text { kernel, way, wgsl });
        }
    }
    Ok(all)
}

/// An entry point of a text, with or without what not every device has.
type Entry = (&'static str, Variant, bool, &'static str);

/// What is to be covered: an entry point, a constant's value in it, or the values of two.
type Seen = (Entry, Option<Constant>, Option<Constant>);

/// Of a constant with more values than this, such as the size of a head, the least, the middle one and the greatest do.
const MOST: usize = 6;

/// Constants of at most so many values are seen in every pair of their values.
const PAIRED: usize = 4;

fn entry(way: &Way) -> Entry {
    (way.source.name, way.variant, way.is_optional(), way.entry)
}

/// The values that each constant has in an entry point.
type Values = HashMap<(Entry, &'static str), BTreeSet<u32>>;

fn shows(way: &Way, values: &Values) -> Vec<Seen> {
    let here = entry(way);
    let all = |name: &'static str| values.get(&(here, name)).map_or(Vec::new(), |v| v.iter().copied().collect());
    let kept = |(name, value): &&Constant| {
        let all = all(name);
        all.len() <= MOST || [all.first(), all.get(all.len() / 2), all.last()].contains(&Some(value))
    };
    let kept: Vec<Constant> = way.constants.iter().filter(kept).copied().collect();
    let paired: Vec<Constant> = kept.iter().filter(|(name, _)| all(name).len() <= PAIRED).copied().collect();
    let mut seen = vec![(here, None, None)];
    seen.extend(kept.into_iter().map(|one| (here, Some(one), None)));
    for (i, one) in paired.iter().enumerate() {
        seen.extend(paired[i + 1..].iter().map(|other| (here, Some(*one), Some(*other))));
    }
    seen
}

/// A choice of pipelines in which every entry point has each value of each constant, and each pair of values that
/// launchers ask for together: whichever shows most that is new, until nothing is.
fn covering(ways: Vec<Way>) -> Vec<Way> {
    let mut keys = HashSet::new();
    let different: Vec<Way> = ways.into_iter().filter(|way| keys.insert(way.key())).collect();
    let mut values = Values::new();
    for way in &different {
        for (name, value) in &way.constants {
            values.entry((entry(way), *name)).or_default().insert(*value);
        }
    }
    let mut numbers = HashMap::new();
    let mut number = |seen: Seen| {
        let next = numbers.len();
        *numbers.entry(seen).or_insert(next)
    };
    let numbered = |way: Way| (shows(&way, &values).into_iter().map(&mut number).collect(), way);
    let mut left: Vec<(Vec<usize>, Way)> = different.into_iter().map(numbered).collect();
    let mut known = vec![false; numbers.len()];
    let mut chosen = Vec::new();
    loop {
        left.retain(|(seen, _)| seen.iter().any(|n| !known[*n]));
        let news = |seen: &[usize]| seen.iter().filter(|n| !known[**n]).count();
        // Of several the first.
        let Some(most) = left.iter().map(|(seen, _)| news(seen)).max() else { return chosen };
        let Some(at) = left.iter().position(|(seen, _)| news(seen) == most) else { return chosen };
        let (seen, way) = left.remove(at);
        seen.into_iter().for_each(|n| known[n] = true);
        chosen.push(way);
    }
}
