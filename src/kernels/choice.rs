//! Which cases are compared: kernels by name, forward or backward, all or as few as meet every entry point.

use super::between;
use super::case::{Case, Inputs, Kernel, Trial};
use super::list::ALL;
use crate::gpu::{Form, Gpu, Traced, Variant};
use crate::settings::setters;
use crate::{Error, Observer, Result};
use fancy_regex::Regex;
use std::collections::HashSet;
use std::rc::Rc;

/// Which direction of the ops is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// What they compute.
    Forward,
    /// Their gradients, alone and with the op between two others.
    Grad,
}

/// What is to be compared.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Selection {
    /// Regular expressions of which one has to match a kernel's whole name; none means every kernel.
    pub names: Vec<String>,
    /// The variants of the texts.
    pub variants: Vec<Variant>,
    /// One direction; None means both.
    pub mode: Option<Mode>,
    /// Every case; else so many that each entry point of each form meets a shape that fills no vec4, one of several
    /// workgroups and one extreme input.
    pub all: bool,
    /// Makes other random numbers; 0 means those of the tests.
    pub seed: u64,
}

setters! {
    impl Selection {
        /// Regular expressions of which one has to match a kernel's whole name; none means every kernel.
        names: Vec<String>;
        /// The variants of the texts.
        variants: Vec<Variant>;
        /// One direction; None means both.
        mode: Option<Mode>;
        /// Every case; else so many that each entry point of each form meets a shape that fills no vec4, one of several
        /// workgroups and one extreme input.
        all: bool;
        /// Makes other random numbers; 0 means those of the tests.
        seed: u64;
    }
}

/// What was chosen, in the order in which it is compared.
pub struct Chosen {
    pub(super) comparisons: Vec<Comparison>,
    pub(super) seed: u64,
    /// How many more comparisons there are with [`Selection::all`].
    pub left: usize,
}

impl Chosen {
    /// The number of comparisons.
    pub fn len(&self) -> usize {
        self.comparisons.len()
    }

    /// Whether there is nothing to compare.
    pub fn is_empty(&self) -> bool {
        self.comparisons.is_empty()
    }
}

/// One case in one form with one kind of inputs.
#[derive(Clone)]
pub(super) struct Comparison {
    pub(super) kernel: &'static Kernel,
    pub(super) form: Form,
    pub(super) case: Rc<Case>,
    pub(super) inputs: Inputs,
    /// Whether it runs many times, all of which have to give the same bits.
    pub(super) repeated: bool,
}

/// A seed per case name, so that adding a case changes no other one's numbers; another one for each seed above 0.
pub(super) fn seed(case: &Case, chosen: u64) -> u64 {
    let own = case.name.bytes().fold(11, |s, b| (s ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    own ^ chosen.wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

/// The kernels of which one of the expressions, each one or several with commas between them, matches the whole name;
/// all kernels where there is no expression.
///
/// # Errors
/// What is no regular expression; one that matches no name, with all names.
pub fn named(expressions: &[String]) -> Result<Vec<&'static Kernel>> {
    let mut all = Vec::new();
    for expression in expressions.iter().flat_map(|list| parts(list)) {
        let wrong = |e: String| Error::Input(format!("'{expression}' is no regular expression: {e}"));
        let regex = Regex::new(&format!("^(?:{expression})$")).map_err(|e| wrong(e.to_string()))?;
        let before = all.len();
        for kernel in ALL {
            if regex.is_match(kernel.name()).map_err(|e| wrong(e.to_string()))? {
                all.push(kernel.name());
            }
        }
        if all.len() == before {
            let names: Vec<&str> = ALL.iter().map(|k| k.name()).collect();
            let what = format!("no kernel's whole name matches '{expression}'");
            return Err(Error::Input(format!("{what}; there are: {}", names.join(", "))));
        }
    }
    Ok(ALL.iter().filter(|k| expressions.is_empty() || all.contains(&k.name())).collect())
}

/// What stands between the commas of a list, but for those inside of brackets.
fn parts(list: &str) -> Vec<&str> {
    let (mut all, mut from, mut depth) = (Vec::new(), 0, 0usize);
    for (at, letter) in list.char_indices() {
        match letter {
            '{' | '[' | '(' => depth += 1,
            '}' | ']' | ')' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                all.push(&list[from..at]);
                from = at + 1;
            }
            _ => {}
        }
    }
    all.push(&list[from..]);
    all
}

/// A kernel's comparisons with the twin, and those where the op stands between two others.
pub fn compared(kernel: &Kernel) -> Vec<Case> {
    let own = (kernel.cases)().into_iter().filter(|case| !case.timed);
    own.chain(between::cases(kernel)).collect()
}

/// Chooses from the cases of all kernels.
///
/// # Errors
/// As [`named`]; a kernel that was named and that this device cannot build; nothing that is left to compare.
pub fn choose(gpu: &Gpu, selection: &Selection, observer: &dyn Observer) -> Result<Chosen> {
    let kernels = named(&selection.names)?;
    let (mut comparisons, mut whole) = (Vec::new(), 0);
    let counting = gpu.counting(None);
    for kernel in kernels {
        if !selection.names.is_empty() {
            gpu.expect_buildable((kernel.source)())?;
        }
        let cases: Vec<Rc<Case>> = compared(kernel).into_iter().map(Rc::new).collect();
        for form in kernel.forms(gpu, &selection.variants) {
            if observer.stop_requested() {
                return Err(Error::Stopped);
            }
            let met = cases.iter().map(|case| Met::of(&counting, kernel, form, case));
            let met = of_mode(met.collect::<Result<_>>()?, kernel, selection.mode);
            let (few, all) = (few(kernel, &met), every(kernel, &met));
            whole += all.len();
            let picked = if selection.all { all } else { few };
            comparisons.extend(picked.into_iter().map(|pick| Comparison {
                kernel,
                form,
                case: met[pick.case].case.clone(),
                inputs: pick.inputs,
                repeated: pick.repeated,
            }));
        }
    }
    let left = whole.saturating_sub(comparisons.len());
    Ok(Chosen { comparisons, seed: selection.seed, left })
}

/// The quickest cases of a kernel in the device's own form that meet every entry point.
pub(super) fn least(gpu: &Gpu, kernel: &'static Kernel) -> Result<Chosen> {
    let (counting, form, mut seen) = (gpu.counting(None), gpu.form(), HashSet::new());
    let cases = compared(kernel).into_iter().map(Rc::new);
    let met: Vec<Met> = cases.map(|case| Met::of(&counting, kernel, form, &case)).collect::<Result<_>>()?;
    let fresh = |i: &usize| met[*i].entries.iter().filter(|e| seen.insert(e.name)).count() > 0;
    let picked: Vec<usize> = by_cost(&met).into_iter().filter(fresh).collect();
    let comparison =
        |i: usize| Comparison { kernel, form, case: met[i].case.clone(), inputs: Inputs::Normal, repeated: false };
    Ok(Chosen { comparisons: picked.into_iter().map(comparison).collect(), seed: 0, left: 0 })
}

/// Compares these cases only, in all of a kernel's forms.
pub fn own(gpu: &Gpu, kernel: &'static Kernel, cases: Vec<Case>, selection: &Selection) -> Chosen {
    let cases: Vec<Rc<Case>> = cases.into_iter().map(Rc::new).collect();
    let forms = kernel.forms(gpu, &selection.variants);
    let all = forms.into_iter().flat_map(|form| cases.iter().map(move |case| (form, case.clone())));
    let comparison = |(form, case)| Comparison { kernel, form, case, inputs: Inputs::Normal, repeated: false };
    Chosen { comparisons: all.map(comparison).collect(), seed: selection.seed, left: 0 }
}

/// What a case launches.
struct Met {
    case: Rc<Case>,
    /// The kernel's own entry points, each once.
    entries: Vec<Entry>,
    /// Whether one of them computes a gradient, or the op stands between two others.
    grad: bool,
    /// Whether its rows see one another.
    forest: bool,
    /// How long it takes, roughly.
    cost: f64,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Entry {
    name: &'static str,
    odd: bool,
    several: bool,
}

/// Operations that a launch counts for, with what its pipeline costs.
const LAUNCH: f64 = 1e6;

impl Met {
    fn of(counting: &Gpu, kernel: &Kernel, form: Form, case: &Rc<Case>) -> Result<Met> {
        let mut trial = Trial::new(counting, form, seed(case, 0), false);
        trial.rec.trace();
        (case.run)(&mut trial)?;
        let (forest, launches) = (trial.forest, trial.rec.traced());
        let mut entries: Vec<Entry> = Vec::new();
        for Traced { entry, odd, groups, .. } in launches.iter().filter(|l| l.name == kernel.name()) {
            let several = *groups > 1;
            match entries.iter_mut().find(|known| known.name == *entry) {
                Some(known) => (known.odd, known.several) = (known.odd | odd, known.several | several),
                None => entries.push(Entry { name: entry, odd: *odd, several }),
            }
        }
        let grad = case.between || entries.iter().any(|e| kernel.is_gradient(e.name));
        let cost = launches.iter().map(|l| l.cost.flops + 4.0 * l.cost.bytes + LAUNCH).sum();
        Ok(Met { case: case.clone(), entries, grad, forest, cost })
    }

    /// The extreme inputs that make another case of it.
    fn extremes(&self) -> Vec<Inputs> {
        let makes = |inputs: &&Inputs| self.forest || **inputs != Inputs::Alone;
        self.case.extremes.iter().filter(makes).copied().collect()
    }
}

/// The cases of one direction. A case that computes both counts as one of gradients, where another one meets what it
/// computes besides.
fn of_mode(met: Vec<Met>, kernel: &Kernel, mode: Option<Mode>) -> Vec<Met> {
    let alone = met.iter().filter(|m| !m.grad).flat_map(|m| &m.entries).map(|e| e.name);
    let alone: HashSet<&str> = alone.collect();
    let forward = |m: &Met| {
        let mut other = m.entries.iter().filter(|e| !kernel.is_gradient(e.name));
        !m.grad || (!m.case.between && other.any(|e| !alone.contains(e.name)))
    };
    let suits = |m: &Met| match mode {
        None => true,
        Some(Mode::Grad) => m.grad,
        Some(Mode::Forward) => forward(m),
    };
    met.into_iter().filter(suits).collect()
}

/// A case, by its number.
struct Pick {
    case: usize,
    inputs: Inputs,
    repeated: bool,
}

/// What each entry point is to meet.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Need {
    Once,
    Odd,
    Several,
    Between,
}

fn needs(met: &Met) -> Vec<(&'static str, Need)> {
    let of = |e: &Entry| {
        let all = [(true, Need::Once), (e.odd, Need::Odd), (e.several, Need::Several)];
        let name = e.name;
        all.into_iter().filter(|(is, _)| *is).map(move |(_, need)| (name, need)).collect::<Vec<_>>()
    };
    let between = met.case.between.then_some(("", Need::Between));
    met.entries.iter().flat_map(of).chain(between).collect()
}

/// The numbers of the cases from the quickest to the slowest.
fn by_cost(met: &[Met]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..met.len()).collect();
    order.sort_by(|a, b| met[*a].cost.total_cmp(&met[*b].cost));
    order
}

/// The quickest cases with which every entry point meets what there is to meet, those of several workgroups many times;
/// then, for each entry point, one extreme input.
fn few(kernel: &Kernel, met: &[Met]) -> Vec<Pick> {
    let (mut seen, mut picks) = (HashSet::new(), Vec::new());
    for case in by_cost(met) {
        let fresh: Vec<(&str, Need)> = needs(&met[case]).into_iter().filter(|need| seen.insert(*need)).collect();
        if !fresh.is_empty() {
            let repeated = fresh.iter().any(|(_, need)| *need == Need::Several);
            picks.push(Pick { case, inputs: Inputs::Normal, repeated });
        }
    }
    let probes = probes(met);
    // Entry points begin with another kind each, so that every kind is met somewhere.
    let first = ALL.iter().position(|k| k.name() == kernel.name()).unwrap_or_default();
    for (i, case) in probes.iter().enumerate() {
        let kinds = met[*case].extremes();
        if let Some(inputs) = kinds.get((first + i) % kinds.len().max(1)) {
            picks.push(Pick { case: *case, inputs: *inputs, repeated: false });
        }
    }
    picks.sort_by_key(|pick| pick.case);
    picks
}

/// For each entry point the quickest case that takes extreme inputs, of several workgroups if there is one.
fn probes(met: &[Met]) -> Vec<usize> {
    let order = by_cost(met);
    let mut entries: Vec<&str> = Vec::new();
    met.iter().flat_map(|m| &m.entries).for_each(|e| {
        if !entries.contains(&e.name) {
            entries.push(e.name);
        }
    });
    let probe = |name: &&str| {
        let takes = |several: bool| {
            let fits = |e: &Entry| e.name == *name && (!several || e.several);
            order.iter().find(|i| !met[**i].extremes().is_empty() && met[**i].entries.iter().any(fits)).copied()
        };
        takes(true).or_else(|| takes(false))
    };
    entries.iter().filter_map(probe).collect()
}

/// Every case, and all extreme inputs of one case of each entry point.
fn every(kernel: &Kernel, met: &[Met]) -> Vec<Pick> {
    let repeated: HashSet<usize> = few(kernel, met).iter().filter(|p| p.repeated).map(|p| p.case).collect();
    let mut picks: Vec<Pick> =
        (0..met.len()).map(|case| Pick { case, inputs: Inputs::Normal, repeated: repeated.contains(&case) }).collect();
    let mut probes = probes(met);
    probes.sort_unstable();
    probes.dedup();
    for case in probes {
        picks.extend(met[case].extremes().into_iter().map(|inputs| Pick { case, inputs, repeated: false }));
    }
    picks.sort_by_key(|pick| pick.case);
    picks
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Silent;
    use crate::gpu::Options;

    #[test]
    fn names_are_matched_whole_and_listed_where_nothing_is() {
        let names = |list: &[&str]| {
            let list: Vec<String> = list.iter().map(|s| (*s).to_owned()).collect();
            named(&list).map(|all| all.iter().map(|k| k.name()).collect::<Vec<_>>())
        };
        assert_eq!(names(&["matmul"]).unwrap(), ["matmul"]);
        assert_eq!(names(&["rows,matmul.*"]).unwrap(), ["matmul", "matmul_matrix", "rows"]);
        assert_eq!(names(&["ro[a-z]{1,2}"]).unwrap(), ["rope", "rows"]);
        assert_eq!(names(&[]).unwrap().len(), ALL.len());
        let error = names(&["mat"]).unwrap_err().to_string();
        assert!(error.contains("'mat'") && error.contains("matmul_matrix"), "{error}");
        assert!(names(&["("]).unwrap_err().to_string().contains("no regular expression"));
    }

    #[test]
    fn the_few_meet_what_all_cases_meet() {
        let gpu = Gpu::with(&Options::default()).unwrap();
        let counting = gpu.counting(None);
        let (mut kinds, mut missed) = (HashSet::new(), Vec::new());
        for kernel in ALL {
            let cases: Vec<Rc<Case>> = compared(kernel).into_iter().map(Rc::new).collect();
            for form in kernel.forms(&gpu, &Variant::ALL) {
                let met: Vec<Met> = cases.iter().map(|case| Met::of(&counting, kernel, form, case).unwrap()).collect();
                let few = few(kernel, &met);
                let all: HashSet<_> = met.iter().flat_map(needs).collect();
                let normal = few.iter().filter(|p| p.inputs == Inputs::Normal);
                let chosen: HashSet<_> = normal.flat_map(|p| needs(&met[p.case])).collect();
                assert_eq!(all, chosen, "{} {}", kernel.name(), form.name());
                kinds.extend(few.iter().map(|p| p.inputs));
                let entries: HashSet<&str> = met.iter().flat_map(|m| &m.entries).map(|e| e.name).collect();
                for entry in entries {
                    let name = format!("{}.{entry} {}", kernel.name(), form.name());
                    let extreme = few.iter().filter(|p| p.inputs != Inputs::Normal);
                    let met_extreme = extreme.flat_map(|p| &met[p.case].entries).any(|e| e.name == entry);
                    let meets = [
                        (all.contains(&(entry, Need::Odd)), "odd shape"),
                        // The norm of a gradient is one workgroup's.
                        (entry == "clip" || all.contains(&(entry, Need::Several)), "launch of several workgroups"),
                        (met_extreme, "extreme input"),
                    ];
                    missed.extend(meets.iter().filter(|(is, _)| !is).map(|(_, what)| format!("{name}: no {what}")));
                }
            }
        }
        assert_eq!(missed, [""; 0]);
        assert_eq!(kinds.len(), 1 + Inputs::EXTREME.len(), "{kinds:?}");
        let chosen = |all: bool| {
            let names = vec!["rms_norm".to_owned()];
            let selection = Selection::default().names(names).variants(Variant::ALL.to_vec()).all(all);
            choose(&gpu, &selection, &Silent).unwrap()
        };
        assert_eq!(chosen(false).len() + chosen(false).left, chosen(true).len());
        assert!(chosen(false).left > 0 && chosen(true).left == 0);
    }
}
