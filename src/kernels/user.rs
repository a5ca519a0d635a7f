//! A kernel of the user's: a WGSL text with a description beside it, run on guarded buffers with bounds checks,
//! compared with a reference and timed.

use super::bench::{BenchRow, Ready, Timing, run_ready};
use super::case::{Case, Kernel};
use super::matmul::{Epilogue, forward};
use super::matmul_cases;
use super::peak::Peaks;
use super::weight::Weight;
use crate::disk;
use crate::gpu::{Cost, Gpu, Tensor, pad4};
use crate::rng::Stream;
use crate::weights::Weights;
use crate::{Error, Observer, Result};
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// What a kernel needs besides its text.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Description {
    /// The entry point.
    #[serde(default = "main")]
    pub entry: String,
    /// Workgroups in up to three dimensions.
    #[serde(default)]
    pub workgroups: Vec<u32>,
    /// Floating-point operations of a run.
    #[serde(default)]
    pub flops: f64,
    /// Bytes of a run; each buffer once where it is not said.
    pub bytes: Option<f64>,
    /// Largest error that a value may have, relative to the larger of it and the root mean square of all.
    #[serde(default = "tolerance")]
    pub tolerance: f64,
    /// What the output has to be.
    pub reference: Option<Reference>,
    /// What is bound.
    #[serde(default, rename = "buffer")]
    pub buffers: Vec<Bound>,
}

fn main() -> String {
    "main".into()
}

fn tolerance() -> f64 {
    1e-4
}

/// What an output is compared with.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reference {
    /// A safetensors file that has the outputs by their names.
    pub file: Option<PathBuf>,
    /// One of the crate's kernels: `matmul`, of the buffers a `[M, K]` and b `[K, N]` with the output c `[M, N]`. It is
    /// timed too.
    pub kernel: Option<String>,
}

/// A buffer of group 0.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bound {
    /// The number of the binding.
    pub binding: u32,
    /// Its name, for messages and references.
    pub name: String,
    /// Sizes, the last one's neighbours beside one another in memory.
    pub shape: Vec<usize>,
    /// f32, u32 or i32.
    #[serde(default, rename = "type")]
    pub kind: Kind,
    /// What it holds before the kernel runs.
    #[serde(default)]
    pub fill: Fill,
    /// Whether the kernel writes it and it is compared.
    #[serde(default)]
    pub output: bool,
}

/// The type of a buffer's elements.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// f32.
    #[default]
    F32,
    /// u32.
    U32,
    /// i32.
    I32,
}

/// What a buffer holds.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(untagged)]
pub enum Fill {
    /// NaN, so that what the kernel leaves out shows.
    #[default]
    Nothing,
    /// The same everywhere.
    Number(f64),
    /// One after the other.
    Numbers(Vec<f64>),
    /// `normal`, `uniform` or `index`, or a safetensors file that has a tensor of the buffer's name.
    Word(String),
}

/// The forms of `--bind`.
const FORMS: &str = "BINDING=NAME:TYPE[SIZES]:FILL, as in 0=a:f32[64,32]:normal; a FILL is a number, normal, uniform, \
                     index, a safetensors file, or output";

impl std::str::FromStr for Bound {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Bound, String> {
        let wrong = || format!("'{text}' is no buffer; expected {FORMS}");
        let (binding, rest) = text.split_once('=').ok_or_else(wrong)?;
        let (name, rest) = rest.split_once(':').ok_or_else(wrong)?;
        let (kind, rest) = rest.split_once('[').ok_or_else(wrong)?;
        let (shape, fill) = rest.split_once(']').ok_or_else(wrong)?;
        let kind = match kind {
            "f32" => Kind::F32,
            "u32" => Kind::U32,
            "i32" => Kind::I32,
            _ => return Err(wrong()),
        };
        let fill = fill.strip_prefix(':').unwrap_or_default();
        let output = fill == "output";
        let shape =
            shape.split(',').map(|n| n.trim().parse().map_err(|_| wrong())).collect::<std::result::Result<_, _>>()?;
        let fill = match fill {
            "" | "output" => Fill::Nothing,
            _ => fill.parse().map_or_else(|_| Fill::Word(fill.to_owned()), Fill::Number),
        };
        Ok(Bound { binding: binding.parse().map_err(|_| wrong())?, name: name.to_owned(), shape, kind, fill, output })
    }
}

impl Description {
    /// Reads a description.
    ///
    /// # Errors
    /// A file that cannot be read, or is none.
    pub fn open(path: &Path) -> Result<Description> {
        let bytes = disk::read(path).map_err(Error::io(path))?;
        let text = String::from_utf8(bytes).map_err(|e| Error::file(path, e.to_string()))?;
        toml::from_str(&text).map_err(|e| Error::file(path, e.to_string().trim().to_owned()))
    }

    /// A description without anything.
    pub fn empty() -> Description {
        Description {
            entry: main(),
            workgroups: Vec::new(),
            flops: 0.0,
            bytes: None,
            tolerance: tolerance(),
            reference: None,
            buffers: Vec::new(),
        }
    }

    fn buffer(&self, name: &str) -> Result<(usize, &Bound)> {
        let found = self.buffers.iter().enumerate().find(|(_, b)| b.name == name);
        let names = || self.buffers.iter().map(|b| b.name.as_str()).collect::<Vec<_>>().join(", ");
        found.ok_or_else(|| Error::Input(format!("the reference needs a buffer '{name}'; there are: {}", names())))
    }

    /// Refuses what no launch can be made of.
    fn check(&self) -> Result<[u32; 3]> {
        let wrong = |what: String| Err(Error::Input(format!("the description of the kernel: {what}")));
        for (i, b) in self.buffers.iter().enumerate() {
            if self.buffers[..i].iter().any(|other| other.binding == b.binding) {
                return wrong(format!("binding {} is there twice", b.binding));
            }
            if b.len().is_none_or(|n| n == 0) {
                return wrong(format!("the buffer '{}' has the shape {:?}", b.name, b.shape));
            }
        }
        if !self.buffers.iter().any(|b| b.output) {
            return wrong("no buffer is an output (output = true)".into());
        }
        if !(self.flops >= 0.0 && self.bytes.is_none_or(|bytes| bytes >= 0.0)) {
            return wrong("flops and bytes are counts; expected numbers of at least 0".into());
        }
        match self.workgroups[..] {
            _ if self.workgroups.contains(&0) => {
                wrong("a number of workgroups is 0, with which nothing would run".into())
            }
            [x] => Ok([x, 1, 1]),
            [x, y] => Ok([x, y, 1]),
            [x, y, z] => Ok([x, y, z]),
            _ => wrong("workgroups needs one to three numbers, as in workgroups = [32, 32]".into()),
        }
    }
}

impl Bound {
    fn len(&self) -> Option<usize> {
        self.shape.iter().try_fold(1usize, |n, size| n.checked_mul(*size)).filter(|n| u32::try_from(*n).is_ok())
    }

    /// The words that it begins with; None where nothing is to be there.
    fn words(&self, folder: &Path) -> Result<Option<Vec<u32>>> {
        let n = self.len().unwrap_or_default();
        let word = |x: f64| match self.kind {
            Kind::F32 => (x as f32).to_bits(),
            Kind::U32 => x as u32,
            Kind::I32 => x as i32 as u32,
        };
        let mut rng = Stream::new(0, crate::rng::fnv(self.name.as_bytes()));
        let uniform = |rng: &mut Stream| f64::from(rng.uniform());
        let all: Vec<f64> = match &self.fill {
            Fill::Nothing => return Ok(None),
            Fill::Number(x) => vec![*x; n],
            Fill::Numbers(all) => all.clone(),
            Fill::Word(word) if word == "normal" => {
                (0..n).map(|_| ((0..4).map(|_| uniform(&mut rng)).sum::<f64>() - 2.0) * 1.732).collect()
            }
            Fill::Word(word) if word == "uniform" => (0..n).map(|_| uniform(&mut rng)).collect(),
            Fill::Word(word) if word == "index" => (0..n).map(|i| i as f64).collect(),
            Fill::Word(file) => tensor(&folder.join(file), &self.name)?.into_iter().map(f64::from).collect(),
        };
        if all.len() != n {
            let (name, shape, given) = (&self.name, &self.shape, all.len());
            return Err(Error::Input(format!("the buffer '{name}' has the shape {shape:?} and {given} values")));
        }
        Ok(Some(all.into_iter().map(word).collect()))
    }
}

/// A tensor of a safetensors file.
fn tensor(path: &Path, name: &str) -> Result<Vec<f32>> {
    Ok(Weights::open_safetensors(path)?.get(name)?.to_f32())
}

/// A user's kernel beside its reference.
pub struct Measured {
    /// The kernel's row, and behind it that of the crate's own if that is the reference.
    pub rows: Vec<BenchRow>,
    /// The largest error, relative to the larger of the value and the root mean square; None without a reference.
    pub error: Option<f64>,
}

/// Runs the kernel, looks at what it wrote, and times it. `gpu` was opened with [`crate::gpu::Options::guarded`].
///
/// # Errors
/// A description or a text that does not do, with its file and line; a write outside of a buffer, with its name and the
/// index; an output that is off.
pub fn measure(
    gpu: &Gpu,
    (file, text): (&Path, &str),
    description: &Description,
    (timing, peaks): (&Timing, &mut Peaks),
    observer: &dyn Observer,
) -> Result<Measured> {
    let groups = description.check()?;
    let folder = file.parent().unwrap_or(Path::new(""));
    let bindings: Vec<u32> = description.buffers.iter().map(|b| b.binding).collect();
    let name = file.display().to_string();
    let kernel = gpu.foreign((&name, text), &description.entry, &bindings)?;
    let mut tensors = Vec::new();
    for b in &description.buffers {
        let words = b.words(folder)?;
        tensors.push(gpu.foreign_buffer(b.len().unwrap_or_default(), words.as_deref())?);
    }
    let bytes = description.buffers.iter().map(|b| 4.0 * b.len().unwrap_or_default() as f64).sum();
    let cost = Cost::new(description.flops, description.bytes.unwrap_or(bytes));
    // What the reference is made of, before the kernel can write into it.
    let reference = reference(gpu, description, &tensors, folder)?;
    let plan = gpu.foreign_plan(&kernel, &tensors.iter().collect::<Vec<_>>(), groups, cost)?;
    let stem = file.file_stem().map_or_else(|| name.clone(), |stem| stem.to_string_lossy().into_owned());
    let outputs: Vec<(String, Tensor)> = description
        .buffers
        .iter()
        .zip(&tensors)
        .filter(|(b, _)| b.output)
        .map(|(b, tensor)| (b.name.clone(), tensor.clone()))
        .collect();
    let ready = Ready::new(gpu, plan, outputs, timing, peaks)?;
    if let Some(outside) = gpu.overrun(ready.plan()?)? {
        let named = description.buffers.iter().find(|b| b.binding == outside.binding);
        let named = named.map_or(String::new(), |b| format!(" '{}'", b.name));
        let (binding, place) = (outside.binding, outside.place());
        return Err(Error::Input(format!("{name} wrote outside of buffer{named} (binding {binding}): {place}")));
    }
    let error = match &reference {
        Some(wanted) => Some(compared(&ready, wanted, description)?),
        None => None,
    };
    let shapes: Vec<String> = description
        .buffers
        .iter()
        .map(|b| format!("{}{}", b.name, b.shape.iter().map(|n| format!(" {n}")).collect::<String>()))
        .collect();
    let shape = format!("{}: {}", description.entry, shapes.join(", "));
    let own = run_ready(gpu, (&stem, &shape, "f32"), ready, (timing, peaks), observer)?;
    let mut rows = vec![BenchRow { variant: "user".into(), ..own }];
    if let Some([m, k, n]) = description.product()? {
        let case: (&Kernel, Case) = (&matmul_cases::KERNEL, matmul_cases::timed((m, k, n), "f32")?);
        rows.extend(super::bench::bench(gpu, &[case], timing, peaks, observer, &mut |_| ())?);
    }
    Ok(Measured { rows, error })
}

impl Description {
    /// `[M, K, N]` of the product that is the reference, if it is one.
    fn product(&self) -> Result<Option<[usize; 3]>> {
        let Some(kernel) = self.reference.as_ref().and_then(|r| r.kernel.as_deref()) else { return Ok(None) };
        if kernel != matmul_cases::KERNEL.name() {
            return Err(Error::Input(format!(
                "the reference '{kernel}' is no kernel that takes the user's buffers: matmul is"
            )));
        }
        let [(_, a), (_, b), (_, c)] = [self.buffer("a")?, self.buffer("b")?, self.buffer("c")?];
        match (&a.shape[..], &b.shape[..], &c.shape[..]) {
            ([m, k], [k2, n], [m2, n2]) if (k, m, n) == (k2, m2, n2) => Ok(Some([*m, *k, *n])),
            shapes => Err(Error::Input(format!(
                "the reference matmul takes a [M, K], b [K, N] and c [M, N]; the buffers have {:?}, {:?} and {:?}",
                shapes.0, shapes.1, shapes.2
            ))),
        }
    }
}

/// An output as it has to be, with its name.
type Wanted = (String, Vec<f32>);

/// The outputs as they have to be.
fn reference(gpu: &Gpu, description: &Description, tensors: &[Tensor], folder: &Path) -> Result<Option<Vec<Wanted>>> {
    let Some(reference) = &description.reference else { return Ok(None) };
    if let Some([m, k, n]) = description.product()? {
        let read = |name: &str| gpu.download::<f32>(&tensors[description.buffer(name)?.0]);
        let mut b = read("b")?;
        b.resize(pad4(k) * n, 0.0);
        let (a, b) = (gpu.upload(m, k, &read("a")?)?, Weight::upload(gpu, pad4(k), n, &b)?);
        let (c, mut rec) = (gpu.empty(m, n)?, gpu.record());
        forward(&mut rec, &a, &b, &c, Epilogue::default())?;
        rec.submit()?;
        return Ok(Some(vec![("c".into(), gpu.download(&c)?)]));
    }
    let Some(file) = &reference.file else {
        return Err(Error::Input("the reference names neither a file nor a kernel".into()));
    };
    let outputs = description.buffers.iter().filter(|b| b.output);
    let all = outputs.map(|b| Ok((b.name.clone(), tensor(&folder.join(file), &b.name)?)));
    Ok(Some(all.collect::<Result<_>>()?))
}

/// The largest error of all outputs.
fn compared(ready: &Ready, wanted: &[Wanted], description: &Description) -> Result<f64> {
    let mut largest = 0.0f64;
    for (name, want) in wanted {
        let Some(got) = ready.first(name) else { continue };
        let kind = description.buffer(name)?.1.kind;
        let value = |word: &u32| match kind {
            Kind::F32 => f64::from(f32::from_bits(*word)),
            Kind::U32 => f64::from(*word),
            Kind::I32 => f64::from(*word as i32),
        };
        if got.len() != want.len() {
            let (had, needed) = (got.len(), want.len());
            return Err(Error::Input(format!("the output '{name}' has {had} values, its reference {needed}")));
        }
        let rms = (want.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / want.len().max(1) as f64).sqrt();
        for (i, (got, want)) in got.iter().map(value).zip(want).enumerate() {
            let want = f64::from(*want);
            let error = (got - want).abs() / want.abs().max(rms).max(1e-30);
            if error.is_nan() || error > description.tolerance {
                let left_out = if got.is_nan() { " (was it written at all?)" } else { "" };
                return Err(Error::Input(format!(
                    "the output {name}[{i}] is {got}{left_out}, the reference says {want}: an error of {error:.1e}, \
                     {:.1e} is allowed",
                    description.tolerance
                )));
            }
            largest = largest.max(error);
        }
    }
    Ok(largest)
}
