//! From a kernel's text to a pipeline: variants are text blocks put one after another, constants are `const` lines.

use super::params::{Parameter, SLOT, parameters};
use super::widen::widen;
use super::{Gpu, Preparing, Variant, lock, wait};
use crate::{Error, Result};
use std::fmt::Write;
use std::sync::Arc;

/// The WGSL of one op: the head shared by its entry points, then a section per entry point, each opened by a line
/// `//@ NAME`, with bindings of its own. Stems of shaders/lib/ behind the name stand in front of this section alone.
#[derive(Clone, Copy, Debug)]
pub struct Source {
    /// The op's stem, which is also the label of its pipelines.
    pub name: &'static str,
    /// Text for [`Variant::Soft`].
    pub soft: &'static str,
    /// Text for [`Variant::Tile`]; the same one where only workgroup size and reductions differ.
    pub tile: &'static str,
    /// Stems of shaders/lib/ to put in front. `reduce` and `parts` exist once per variant, `operand` once per storage
    /// type, which the constant HALF says, `scales` of quantised blocks once per kind of SCALES, `channels` once per
    /// UNIT of them, `cap` with and without CAP, `growth` with and without GROWS, `fragment` once per SIZE of the
    /// device's matrix units, `lanes` for lanes that load for each other and for those that do not.
    pub libs: &'static [&'static str],
    /// Workgroup size of the tile variant; the soft variant's is 8, a vector's lanes.
    pub tile_size: u32,
}

const LIBS: &[(&str, &str, &str)] = &[
    ("grid", include_str!("../../shaders/lib/grid.wgsl"), include_str!("../../shaders/lib/grid.wgsl")),
    ("reduce", include_str!("../../shaders/lib/reduce.soft.wgsl"), include_str!("../../shaders/lib/reduce.tile.wgsl")),
    (
        "reduce.tile",
        include_str!("../../shaders/lib/reduce.tile.wgsl"),
        include_str!("../../shaders/lib/reduce.tile.wgsl"),
    ),
    ("keys", include_str!("../../shaders/lib/keys.wgsl"), include_str!("../../shaders/lib/keys.wgsl")),
    ("kept", include_str!("../../shaders/lib/kept.wgsl"), include_str!("../../shaders/lib/kept.wgsl")),
    ("gate", include_str!("../../shaders/lib/gate.wgsl"), include_str!("../../shaders/lib/gate.wgsl")),
    ("philox", include_str!("../../shaders/lib/philox.wgsl"), include_str!("../../shaders/lib/philox.wgsl")),
    ("forest", include_str!("../../shaders/lib/forest.wgsl"), include_str!("../../shaders/lib/forest.wgsl")),
    ("path", include_str!("../../shaders/lib/path.wgsl"), include_str!("../../shaders/lib/path.wgsl")),
    ("path_keep", include_str!("../../shaders/lib/path_keep.wgsl"), include_str!("../../shaders/lib/path_keep.wgsl")),
    ("path_step", include_str!("../../shaders/lib/path_step.wgsl"), include_str!("../../shaders/lib/path_step.wgsl")),
    ("below", include_str!("../../shaders/lib/below.wgsl"), include_str!("../../shaders/lib/below.wgsl")),
    ("delta", include_str!("../../shaders/lib/delta.wgsl"), include_str!("../../shaders/lib/delta.wgsl")),
    ("chunks", include_str!("../../shaders/lib/chunks.wgsl"), include_str!("../../shaders/lib/chunks.wgsl")),
    ("raw", include_str!("../../shaders/lib/raw.wgsl"), include_str!("../../shaders/lib/raw.wgsl")),
    ("rule", include_str!("../../shaders/lib/rule.wgsl"), include_str!("../../shaders/lib/rule.wgsl")),
    ("parts", include_str!("../../shaders/lib/parts.soft.wgsl"), include_str!("../../shaders/lib/parts.tile.wgsl")),
    ("blocks", include_str!("../../shaders/lib/blocks.wgsl"), include_str!("../../shaders/lib/blocks.wgsl")),
    ("fetch", include_str!("../../shaders/lib/fetch.wgsl"), include_str!("../../shaders/lib/fetch.wgsl")),
    ("bits", include_str!("../../shaders/lib/bits.wgsl"), include_str!("../../shaders/lib/bits.wgsl")),
    ("fetch_q", include_str!("../../shaders/lib/fetch_q.wgsl"), include_str!("../../shaders/lib/fetch_q.wgsl")),
    ("finish", include_str!("../../shaders/lib/finish.wgsl"), include_str!("../../shaders/lib/finish.wgsl")),
    ("layers", include_str!("../../shaders/lib/layers.wgsl"), include_str!("../../shaders/lib/layers.wgsl")),
    ("beside", include_str!("../../shaders/lib/beside.wgsl"), include_str!("../../shaders/lib/beside.wgsl")),
    ("rotate", include_str!("../../shaders/lib/rotate.wgsl"), include_str!("../../shaders/lib/rotate.wgsl")),
    ("walk", include_str!("../../shaders/lib/walk.wgsl"), include_str!("../../shaders/lib/walk.wgsl")),
    ("sink", include_str!("../../shaders/lib/sink.wgsl"), include_str!("../../shaders/lib/sink.wgsl")),
    ("pages", include_str!("../../shaders/lib/pages.wgsl"), include_str!("../../shaders/lib/pages.wgsl")),
];

/// What a line `//< NAME` stands for in the soft and in the tile variant: lines that several entry points share with
/// all their registers, which a function could not see.
const INSERTS: &[(&str, &str, &str)] = &[
    (
        "adapted",
        include_str!("../../shaders/lib/adapted.soft.wgsl"),
        include_str!("../../shaders/lib/adapted.tile.wgsl"),
    ),
    (
        "grouped",
        include_str!("../../shaders/lib/grouped.soft.wgsl"),
        include_str!("../../shaders/lib/grouped.tile.wgsl"),
    ),
    (
        "grouped_few",
        include_str!("../../shaders/lib/grouped_few.wgsl"),
        include_str!("../../shaders/lib/grouped_few.wgsl"),
    ),
    (
        "grouped_nt",
        include_str!("../../shaders/lib/grouped_nt.soft.wgsl"),
        include_str!("../../shaders/lib/grouped_nt.tile.wgsl"),
    ),
];

type Choice = (u32, &'static str);

/// The texts of libraries, one behind the other.
macro_rules! texts {
    ($($name:literal),*) => { concat!($(include_str!(concat!("../../shaders/lib/", $name, ".wgsl"))),*) };
}

/// Libraries of which a constant chooses one, 0 where it is missing: how weights and the scales of their blocks are
/// stored, how the channels of attention's heads are read, whether scores and logits have a soft cap, whether
/// queries grow with their position, the size of matrix units, and how many lanes load for each other.
const CHOICES: &[(&str, &str, &[Choice])] = &[
    (
        "operand",
        "HALF",
        &[
            (0, include_str!("../../shaders/lib/operand.f32.wgsl")),
            (1, include_str!("../../shaders/lib/operand.bf16.wgsl")),
            (2, include_str!("../../shaders/lib/operand.f16.wgsl")),
        ],
    ),
    (
        "scales",
        "SCALES",
        &[
            (0, texts!("scales", "scales.even", "scales.halves", "scales.half")),
            (1, texts!("scales", "scales.even", "scales.full")),
            (2, texts!("scales", "scales.power")),
            (3, texts!("scales", "scales.even", "scales.halves", "scales.times")),
        ],
    ),
    (
        "channels",
        "UNIT",
        &[
            (1, include_str!("../../shaders/lib/channels.fours.wgsl")),
            (2, include_str!("../../shaders/lib/channels.pairs.wgsl")),
            (4, include_str!("../../shaders/lib/channels.ones.wgsl")),
        ],
    ),
    (
        "cap",
        "CAP",
        &[(0, include_str!("../../shaders/lib/cap.none.wgsl")), (1, include_str!("../../shaders/lib/cap.tanh.wgsl"))],
    ),
    (
        "growth",
        "GROWS",
        &[
            (0, include_str!("../../shaders/lib/growth.none.wgsl")),
            (1, include_str!("../../shaders/lib/growth.log.wgsl")),
        ],
    ),
    (
        "fragment",
        "SIZE",
        &[
            (8, include_str!("../../shaders/lib/fragment.8.wgsl")),
            (16, include_str!("../../shaders/lib/fragment.16.wgsl")),
        ],
    ),
    (
        "lanes",
        LANES.0,
        &[
            (0, include_str!("../../shaders/lib/lanes.alone.wgsl")),
            (LANES.1, include_str!("../../shaders/lib/lanes.together.wgsl")),
        ],
    ),
];

impl Source {
    /// The whole WGSL of one entry point with its constants.
    ///
    /// # Errors
    /// An entry point or library block that does not exist.
    pub fn wgsl(&self, variant: Variant, entry: &str, constants: &[(&'static str, u32)]) -> Result<String> {
        let text = match variant {
            Variant::Soft => self.soft,
            Variant::Tile => self.tile,
        };
        // Directives stand before everything else.
        let is_directive = |line: &&str| line.starts_with("enable ");
        let mut out: String = text.lines().filter(is_directive).flat_map(|line| [line, "\n"]).collect();
        if !constants.iter().any(|(n, _)| *n == "WG") {
            let _ = writeln!(out, "const WG: u32 = {}u;", self.workgroup(variant));
        }
        let per = Source::per(variant);
        let _ = writeln!(out, "const PER: u32 = {per}u;");
        for (name, value) in constants {
            let _ = writeln!(out, "const {name}: u32 = {value}u;");
        }
        let section = text.split("\n//@ ").skip(1).find(|s| s.split_whitespace().next() == Some(entry));
        let section = section.ok_or_else(|| Error::Bug(format!("{}: no entry point '{entry}'", self.name)))?;
        let own = section.lines().next().unwrap_or_default().split_whitespace().skip(1);
        for lib in self.libs.iter().copied().chain(own) {
            if let Some((_, constant, texts)) = CHOICES.iter().find(|(n, ..)| *n == lib) {
                let wanted = constants.iter().find(|(n, _)| n == constant).map_or(0, |(_, v)| *v);
                let text = texts.iter().find(|(value, _)| *value == wanted).map(|(_, text)| text);
                let missing = || Error::Bug(format!("{}: no shaders/lib/{lib} for {constant} = {wanted}", self.name));
                out.push_str(text.ok_or_else(missing)?);
                continue;
            }
            let found = LIBS.iter().find(|(n, ..)| *n == lib);
            let (_, soft, tile) = found.ok_or_else(|| Error::Bug(format!("{}: no shaders/lib/{lib}", self.name)))?;
            out.push_str(if variant == Variant::Soft { soft } else { tile });
        }
        let head = text.split("\n//@ ").next().unwrap_or_default().lines().filter(|line| !is_directive(line));
        out.extend(head.flat_map(|line| [line, "\n"]));
        out.push_str("\n// ");
        for line in section.lines() {
            let Some(name) = line.trim_start().strip_prefix("//< ") else {
                out.extend([line, "\n"]);
                continue;
            };
            let found = INSERTS.iter().find(|(n, ..)| *n == name);
            let (_, soft, tile) = found.ok_or_else(|| Error::Bug(format!("{}: no shaders/lib/{name}", self.name)))?;
            out.push_str(if variant == Variant::Soft { soft } else { tile });
        }
        // A loop over one item ends in a break, or a GPU's compiler would not see that it is none.
        let counts = [constants, &[("ONCE", u32::from(per == 1))]].concat();
        let text = expand(self.name, &out, &counts)?;
        Ok(if constants.contains(&WIDE) { widen(&text) } else { text })
    }

    /// What its `enable` directives name.
    pub(super) fn directives(&self, variant: Variant) -> impl Iterator<Item = &'static str> {
        let text = if variant == Variant::Soft { self.soft } else { self.tile };
        text.lines().filter_map(|line| line.strip_prefix("enable ")).map(|name| name.trim_end_matches(';'))
    }

    /// Whether it needs more than every device has.
    pub fn is_optional(&self) -> bool {
        Variant::ALL.iter().any(|v| self.directives(*v).next().is_some())
    }

    /// Invocations of a workgroup where a launcher does not say otherwise.
    pub fn workgroup(&self, variant: Variant) -> u32 {
        match variant {
            Variant::Soft => 8,
            Variant::Tile => self.tile_size,
        }
    }

    /// How many items each lane works on in texts that loop from `first_of` to `end_of` (shaders/lib/grid.wgsl).
    pub fn per(variant: Variant) -> u32 {
        match variant {
            Variant::Soft => 64,
            Variant::Tile => 1,
        }
    }

    /// For each storage binding from 1 on, whether it is only read. The shader's own declarations are the one list of
    /// bindings; a declaration is one line.
    pub fn read_only_bindings(text: &str) -> Vec<bool> {
        text.lines()
            .filter(|l| l.trim_start().starts_with("@group(0)") && l.contains("var<storage"))
            .map(|l| !l.contains("read_write"))
            .collect()
    }

    /// The entry points, in file order.
    pub fn entries(&self, variant: Variant) -> Vec<&'static str> {
        let text = if variant == Variant::Soft { self.soft } else { self.tile };
        text.split("\n//@ ").skip(1).filter_map(|s| s.split_whitespace().next()).collect()
    }
}

/// Writes a line that ends in `//*COUNT` COUNT times with `$` replaced by 0, 1, …, and one that ends in
/// `//*ROWS*COLUMNS` for every pair of the two, `$` being the first and `#` the second; a count is a number or a
/// constant. What is repeated may go on over several lines, of which all but the last end in a backslash. Hot loops
/// over registers are unrolled so, since naga emits none that a driver would unroll.
fn expand(name: &str, text: &str, constants: &[(&'static str, u32)]) -> Result<String> {
    let times = |count: &str| {
        let known = constants.iter().find(|(n, _)| *n == count).map(|(_, v)| *v);
        let wrong = || Error::Bug(format!("{name}: a line repeats '{count}' times, which is no constant"));
        known.or_else(|| count.parse().ok()).ok_or_else(wrong)
    };
    let mut out = String::with_capacity(text.len() * 2);
    let mut begun = String::new();
    for line in text.lines() {
        if let Some(part) = line.strip_suffix('\\') {
            begun += part.trim_end();
            begun.push('\n');
            continue;
        }
        let line = std::mem::take(&mut begun) + line;
        let repeated = if line.starts_with("//") { None } else { line.rsplit_once("//*") };
        let Some((body, counts)) = repeated else {
            out.push_str(&line);
            out.push('\n');
            continue;
        };
        let (rows, columns) = counts.trim().split_once('*').unwrap_or((counts.trim(), "1"));
        let columns = times(columns)?;
        for i in 0..times(rows)? {
            for j in 0..columns {
                out.push_str(&body.trim_end().replace('$', &i.to_string()).replace('#', &j.to_string()));
                out.push('\n');
            }
        }
    }
    if begun.is_empty() {
        return Ok(out);
    }
    Err(Error::Bug(format!("{name}: the text ends in a line that is to go on")))
}

/// A constant that has a text's buffers read and written in words of 64 bits, where [`Gpu::has_wide_words`].
pub(crate) const WIDE: (&str, u32) = ("WIDE", 1);

/// A constant that has the lanes of a soft workgroup load for each other, where [`Gpu::has_lanes`].
pub(crate) const LANES: (&str, u32) = ("LANES", 8);

/// What a pipeline is known by: two with equal keys are the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PipelineKey {
    /// Name of the [`Source`].
    pub name: &'static str,
    /// Which of the source's texts.
    pub variant: Variant,
    /// The entry point.
    pub entry: &'static str,
    /// The constants, in the order in which they stand in front of the text.
    pub constants: Vec<(&'static str, u32)>,
}

pub(super) struct Pipeline {
    pub(super) pipeline: wgpu::ComputePipeline,
    pub(super) layout: wgpu::BindGroupLayout,
    /// Storage bindings, after the parameters at binding 0.
    pub(super) storage: usize,
    /// The members of its `Params`.
    pub(super) params: Vec<Parameter>,
    /// Of a text that is not the crate's own the numbers of its bindings, in the order of a launch's buffers; it has no
    /// parameters beside them.
    pub(super) own_bindings: Option<Vec<u32>>,
}

impl Gpu {
    /// The pipelines that were built so far.
    pub fn pipelines(&self) -> Vec<PipelineKey> {
        lock(&self.0.pipelines).keys().cloned().collect()
    }

    pub(super) fn pipeline(&self, source: &Source, key: &PipelineKey) -> Result<Arc<Pipeline>> {
        if let Some(p) = lock(&self.0.pipelines).get(key) {
            return Ok(p.clone());
        }
        let text = source.wgsl(key.variant, key.entry, &key.constants)?;
        let name = format!("{}.{}", source.name, key.entry);
        let made = Arc::new(self.preparing(Preparing::Compiling(&name), || self.build(source, key, &text))?);
        lock(&self.0.pipelines).insert(key.clone(), made.clone());
        Ok(made)
    }

    fn build(&self, source: &Source, key: &PipelineKey, text: &str) -> Result<Pipeline> {
        let device = &self.0.device;
        let label = format!("{}.{}.{}", source.name, key.variant.name(), key.entry);
        let checks =
            if self.0.checked { wgpu::ShaderRuntimeChecks::checked() } else { wgpu::ShaderRuntimeChecks::unchecked() };
        let descriptor =
            wgpu::ShaderModuleDescriptor { label: Some(&label), source: wgpu::ShaderSource::Wgsl(text.into()) };
        let scope = device.push_error_scope(wgpu::ErrorFilter::Validation);
        #[expect(
            unsafe_code,
            reason = "index clamps cost up to 60 % and loop bounding far more; only this crate's own texts come here"
        )]
        // SAFETY: no text from outside reaches this line, for `Launch` and `Recorder::launch` are the crate's own. A
        // launch sends each parameter under the shader's name for it and compares the extent of every tensor with its
        // buffer, launchers compare the shapes with one another, ids and pages are checked where they enter the
        // library, nobody else can change a tensor's or a model's shape, all loops are bounded by those shapes, and
        // the tests run every kernel with the checks on.
        let module = unsafe { device.create_shader_module_trusted(descriptor, checks) };
        let params = parameters(text)?;
        if params.iter().map(|p| 4 * p.words).sum::<usize>() > SLOT {
            return Err(Error::Bug(format!("{label}: more than {SLOT} bytes of parameters")));
        }
        let declared = Source::read_only_bindings(text);
        let mut entries = vec![wgpu::BindGroupLayoutEntry {
            binding: 0,
            visibility: wgpu::ShaderStages::COMPUTE,
            ty: wgpu::BindingType::Buffer {
                ty: wgpu::BufferBindingType::Uniform,
                has_dynamic_offset: true,
                min_binding_size: None,
            },
            count: None,
        }];
        entries.extend(declared.iter().enumerate().map(|(i, read_only)| wgpu::BindGroupLayoutEntry {
            binding: i as u32 + 1,
            visibility: wgpu::ShaderStages::COMPUTE,
            ty: wgpu::BindingType::Buffer {
                ty: wgpu::BufferBindingType::Storage { read_only: *read_only },
                has_dynamic_offset: false,
                min_binding_size: None,
            },
            count: None,
        }));
        let layout = device
            .create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: Some(&label), entries: &entries });
        let pipeline_layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: Some(&label),
            bind_group_layouts: &[Some(&layout)],
            immediate_size: 0,
        });
        let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(&label),
            layout: Some(&pipeline_layout),
            module: &module,
            entry_point: Some(key.entry),
            compilation_options: wgpu::PipelineCompilationOptions {
                zero_initialize_workgroup_memory: false,
                ..Default::default()
            },
            cache: None,
        });
        if let Some(e) = wait::block_on(scope.pop()) {
            return Err(Error::Device(format!("{label}: {e}")));
        }
        Ok(Pipeline { pipeline, layout, storage: declared.len(), params, own_bindings: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_repeated_by_constants_numbers_and_pairs() {
        let text =
            "let a$ = 0; //*N\nlet b# = 0; //*1*2\nif x { \\\n    c$_#(); \\\n} //*2*N\nonce(); //*OFF\nlast();\n";
        let expanded = "let a0 = 0;\nlet a1 = 0;\nlet a2 = 0;\nlet b0 = 0;\nlet b1 = 0;\n";
        let pair = |i: u32, j: u32| format!("if x {{\n    c{i}_{j}();\n}}\n");
        let pairs: String = (0..2).flat_map(|i| (0..3).map(move |j| pair(i, j))).collect();
        let constants = [("N", 3), ("OFF", 0)];
        assert_eq!(expand("test", text, &constants).unwrap(), format!("{expanded}{pairs}last();\n"));
        for (text, what) in [("x(); //*MISSING\n", "'MISSING'"), ("x(); \\\n", "go on")] {
            let error = expand("test", text, &constants).unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
        }
    }
}
