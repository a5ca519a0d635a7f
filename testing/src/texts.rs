//! The texts of the pipelines that launchers ask for, by walking the list of kernels.

use selfreward::gpu::Variant;
use selfreward::kernels::{ALL, Kernel, Traits, Way};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// The text of a pipeline.
pub struct Text {
    /// Its op.
    pub kernel: &'static Kernel,
    /// The entry point with its constants.
    pub way: Way,
    /// The text itself.
    pub wgsl: String,
}

/// Some of all pipelines, in the order of the list, as `covering` chooses them.
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

/// Constants of few models' pipelines.
const RARE: [&str; 2] = ["CAP", "GROWS"];

/// An entry point of a text, with or without what not every device has and what few models have: what is chosen of
/// those without it does not depend on those with it.
type Entry = (&'static str, Variant, [bool; 2], &'static str);

/// A constant's name and its value, None where a pipeline does not have it.
type Value = (&'static str, Option<u32>);

/// What is to be covered: an entry point, a constant's value in it, or the values of two.
type Seen = (Entry, Option<Value>, Option<Value>);

/// Of a constant with more values than this, such as the size of a head, the least, the middle one and the greatest do.
const MOST: usize = 6;

/// Constants of at most so many values are seen in every pair of their values.
const PAIRED: usize = 4;

fn entry(way: &Way) -> Entry {
    let rare = way.constants.iter().any(|(name, _)| RARE.contains(name));
    (way.source.name, way.variant, [way.is_optional(), rare], way.entry)
}

/// The values that each constant has in an entry point.
type Values = BTreeMap<&'static str, BTreeSet<Option<u32>>>;

fn shows(way: &Way, values: &Values) -> Vec<Seen> {
    let here = entry(way);
    let (mut kept, mut paired) = (Vec::new(), Vec::new());
    for (name, all) in values {
        let value = way.constants.iter().find(|(n, _)| n == name).map(|(_, v)| *v);
        let few = [all.first(), all.iter().nth(all.len() / 2), all.last()];
        if all.len() <= MOST || few.contains(&Some(&value)) {
            kept.push((*name, value));
        }
        if all.len() <= PAIRED {
            paired.push((*name, value));
        }
    }
    let mut seen = vec![(here, None, None)];
    seen.extend(kept.into_iter().map(|one| (here, Some(one), None)));
    for (i, one) in paired.iter().enumerate() {
        seen.extend(paired[i + 1..].iter().map(|other| (here, Some(*one), Some(*other))));
    }
    seen
}

/// The values of the constants in each entry point; what some pipelines of it do not have has None among them.
fn values(ways: &[Way]) -> HashMap<Entry, Values> {
    let mut all: HashMap<Entry, Values> = HashMap::new();
    for way in ways {
        let here = all.entry(entry(way)).or_default();
        for (name, value) in &way.constants {
            here.entry(*name).or_default().insert(Some(*value));
        }
    }
    for way in ways {
        for (name, values) in all.get_mut(&entry(way)).into_iter().flatten() {
            if !way.constants.iter().any(|(n, _)| n == name) {
                values.insert(None);
            }
        }
    }
    all
}

/// A choice of pipelines in which every entry point has each value of each constant, and each pair of values that
/// launchers ask for together: whichever shows most that is new, until nothing is.
fn covering(ways: Vec<Way>) -> Vec<Way> {
    let mut keys = HashSet::new();
    let different: Vec<Way> = ways.into_iter().filter(|way| keys.insert(way.key())).collect();
    let values = values(&different);
    let mut numbers = HashMap::new();
    let mut number = |seen: Seen| {
        let next = numbers.len();
        *numbers.entry(seen).or_insert(next)
    };
    let numbered = |way: Way| (shows(&way, &values[&entry(&way)]).into_iter().map(&mut number).collect(), way);
    let mut left: Vec<(Vec<usize>, Way)> = different.into_iter().map(numbered).collect();
    let mut known = vec![false; numbers.len()];
    let mut chosen = Vec::new();
    loop {
        left.retain(|(seen, _)| seen.iter().any(|n| !known[*n]));
        let news = |seen: &[usize]| seen.iter().filter(|n| !known[**n]).count();
        // Of several the first.
        let Some(most) = left.iter().map(|(seen, _)| news(seen)).max() else { break };
        let Some(at) = left.iter().position(|(seen, _)| news(seen) == most) else { break };
        let (seen, way) = left.remove(at);
        seen.into_iter().for_each(|n| known[n] = true);
        chosen.push(way);
    }
    chosen.sort_by_key(|way| {
        let entries = way.source.entries(way.variant);
        (way.variant.name(), entries.iter().position(|e| *e == way.entry), way.constants.clone())
    });
    chosen
}
