//! Every text that the launchers can ask for, by walking the list of kernels.

use selfreward::gpu::{Source, Variant};
use selfreward::kernels::ALL;

/// Constants that launchers pass to some entry points; a text that does not use one is none the worse for it.
const OTHERS: &[(&str, u32)] = &[
    ("MR", 4),
    ("NC", 2),
    ("BIAS", 1),
    ("ADD", 1),
    ("BITS", 4),
    ("GROUP", 32),
    ("D4", 16),
    ("PARTS", 1),
    ("NB", 1),
    ("QS", 1),
    ("CHUNK", 128),
    ("HD", 64),
    ("DP", 64),
    ("LDA", 64),
    ("ROT", 64),
    ("QK_NORM", 1),
    ("OFFSET", 1),
    ("GELU", 1),
];

/// One entry point with its constants.
pub struct Text {
    /// The kernel's.
    pub source: &'static Source,
    /// The variant of the text.
    pub variant: Variant,
    /// The name of the function.
    pub entry: &'static str,
    /// The row of the kernel's constants.
    pub row: &'static [(&'static str, u32)],
    /// The text itself.
    pub wgsl: String,
}

/// All of them, in the order of the list.
pub fn texts() -> Result<Vec<Text>, selfreward::Error> {
    let mut all = Vec::new();
    for kernel in ALL {
        let source = (kernel.source)();
        for variant in Variant::ALL {
            for entry in source.entries(variant) {
                for row in kernel.constants {
                    let mut constants = row.to_vec();
                    constants.extend(OTHERS.iter().filter(|(n, _)| !row.iter().any(|(m, _)| m == n)));
                    let wgsl = source.wgsl(variant, entry, &constants)?;
                    all.push(Text { source, variant, entry, row, wgsl });
                }
            }
        }
    }
    Ok(all)
}
