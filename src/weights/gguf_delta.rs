//! Gated delta nets in GGUF files (Qwen3.5), as llama.cpp's converter writes them: heads of values in another order,
//! decays as they are, and the keys that tell the sizes.

use crate::arch::{Arch, DeltaNet, Dtype, Mixer};

/// Where the heads of values stand along an axis. Hugging Face has those that share a head of keys side by side; a file
/// has the first one of each head of keys, then the second ones, and so on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tiles {
    /// Entries before the first head of values.
    before: usize,
    /// Heads of keys.
    keys: usize,
    /// Heads of values that share one of them.
    sharing: usize,
    /// Entries of a head of values.
    size: usize,
}

/// How a tensor of a delta net differs from Hugging Face's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reordered {
    /// Its rows lie in the file's order.
    Rows(Tiles),
    /// So do its columns.
    Columns(Tiles),
    /// It holds -exp of the values, in the file's order.
    Decays(Tiles),
}

impl Tiles {
    /// How many entries the axis has.
    fn len(&self) -> usize {
        self.before + self.keys * self.sharing * self.size
    }

    /// Runs of entries: the first one here, the first one in the file, and how many there are.
    fn runs(self) -> impl Iterator<Item = (usize, usize, usize)> {
        let head = move |head: usize| {
            let (key, which) = (head / self.sharing, head % self.sharing);
            let stored = which * self.keys + key;
            (self.before + head * self.size, self.before + stored * self.size, self.size)
        };
        std::iter::once((0, 0, self.before)).chain((0..self.keys * self.sharing).map(head))
    }

    /// Entries of `unit` values each, from the file's order into Hugging Face's. There are as many as
    /// [`Reordered::fits`] asks for.
    fn read<T: Copy>(self, data: &[T], unit: usize) -> Vec<T> {
        let mut out = data.to_vec();
        for (own, stored, length) in self.runs() {
            out[own * unit..][..length * unit].copy_from_slice(&data[stored * unit..][..length * unit]);
        }
        out
    }

    /// The reverse of [`Tiles::read`].
    fn write<T: Copy>(self, data: &[T], unit: usize) -> Vec<T> {
        let mut out = data.to_vec();
        for (own, stored, length) in self.runs() {
            out[stored * unit..][..length * unit].copy_from_slice(&data[own * unit..][..length * unit]);
        }
        out
    }
}

impl Reordered {
    /// What a file changes of a tensor (Hugging Face's name); None if nothing.
    pub(super) fn of(name: &str, net: &DeltaNet) -> Option<Reordered> {
        let (keys, sharing) = (net.key_heads, net.value_heads / net.key_heads.max(1));
        let tiles = |before, size| Tiles { before, keys, sharing, size };
        let (_, part) = name.split_once(".linear_attn.")?;
        let reordered = match part {
            "in_proj_qkv.weight" | "conv1d.weight" => {
                Reordered::Rows(tiles(2 * net.key_heads * net.key_dim, net.value_dim))
            }
            "in_proj_z.weight" => Reordered::Rows(tiles(0, net.value_dim)),
            "in_proj_a.weight" | "in_proj_b.weight" | "dt_bias" => Reordered::Rows(tiles(0, 1)),
            "out_proj.weight" => Reordered::Columns(tiles(0, net.value_dim)),
            "A_log" => return Some(Reordered::Decays(tiles(0, 1))),
            _ => return None,
        };
        // Where no heads share, both orders are one.
        (sharing > 1).then_some(reordered)
    }

    /// Whether a tensor of this shape and type can be put into Hugging Face's order; else what is wrong.
    pub(super) fn fits(self, shape: &[usize], dtype: Option<&Dtype>) -> std::result::Result<(), String> {
        let (axis, tiles) = match self {
            Reordered::Rows(tiles) | Reordered::Decays(tiles) => (shape.first(), tiles),
            Reordered::Columns(tiles) => (shape.get(1).filter(|_| shape.len() == 2), tiles),
        };
        if axis != Some(&tiles.len()) || shape.contains(&0) {
            let (keys, sharing, size) = (tiles.keys, tiles.sharing, tiles.size);
            let heads = format!("{keys} heads of keys with {sharing} heads of values of {size} channels each");
            return Err(format!("shape {shape:?} does not go with {heads}"));
        }
        match shape.len() == 1 && dtype.is_some_and(|dtype| dtype.block().0 > 1) {
            true => Err("a quantised vector cannot be reordered".into()),
            false => Ok(()),
        }
    }

    /// The type in which values stored in `stored` are given: a row whose heads begin within a block of quantised
    /// values is no row of such blocks in another order.
    pub(super) fn dtype(self, stored: Dtype) -> Dtype {
        match self {
            Reordered::Rows(_) => stored,
            Reordered::Columns(tiles) if tiles.size.is_multiple_of(stored.block().0) => stored,
            Reordered::Columns(_) => Dtype::F16,
            Reordered::Decays(_) => Dtype::F32,
        }
    }

    /// Stored bytes of a tensor that [`Reordered::fits`] as Hugging Face has them, in the type that
    /// [`Reordered::dtype`] says.
    pub(super) fn read(self, data: &[u8], shape: &[usize], stored: Dtype) -> Vec<u8> {
        let row = data.len() / shape[0].max(1);
        let values = || {
            let mut values = Vec::new();
            stored.dequantise(data, &mut values);
            values
        };
        match self {
            Reordered::Rows(tiles) => tiles.read(data, row),
            Reordered::Columns(tiles) if self.dtype(stored) == stored => {
                // Whole blocks are moved.
                let blocks = Tiles { size: tiles.size / stored.block().0, ..tiles };
                data.chunks_exact(row).flat_map(|data| blocks.read(data, row / blocks.len())).collect()
            }
            Reordered::Columns(tiles) => {
                let half = |x: f32| half::f16::from_f32(x).to_le_bytes();
                values().chunks_exact(tiles.len()).flat_map(|row| tiles.read(row, 1)).flat_map(half).collect()
            }
            Reordered::Decays(tiles) => {
                let log = |x: f32| ((-f64::from(x)).ln() as f32).to_le_bytes();
                tiles.read(&values(), 1).into_iter().flat_map(log).collect()
            }
        }
    }

    /// Values of a tensor `[rows, …]` as a file has them.
    pub(super) fn write(self, values: &[f32], rows: usize) -> Vec<f32> {
        match self {
            Reordered::Rows(tiles) => tiles.write(values, values.len() / rows.max(1)),
            Reordered::Columns(tiles) => values.chunks_exact(tiles.len()).flat_map(|row| tiles.write(row, 1)).collect(),
            Reordered::Decays(tiles) => {
                tiles.write(values, 1).into_iter().map(|x| -(f64::from(x).exp()) as f32).collect()
            }
        }
    }
}

/// The delta net of a model's blocks, if it has one.
pub(super) fn net(arch: &Arch) -> Option<&DeltaNet> {
    arch.layers.iter().find_map(|layer| match &layer.mixer {
        Mixer::DeltaNet(net) => Some(net),
        _ => None,
    })
}

/// The keys that tell of a model's delta nets, behind the architecture's name; else what such a file cannot say.
pub(super) fn keys(arch: &Arch) -> std::result::Result<Vec<(&'static str, usize)>, String> {
    let net = net(arch).ok_or("no block has a delta net")?;
    let attends = |block: usize| arch.layers[block].mixer.attention();
    let blocks = arch.layers.len();
    let periodic = |n: &usize| (0..blocks).all(|block| attends(block).is_some() == (block + 1).is_multiple_of(*n));
    let interval = (1..=blocks).find(periodic).ok_or("blocks with attention do not stand at equal distances")?;
    if net.key_dim != net.value_dim {
        let (keys, values) = (net.key_dim, net.value_dim);
        return Err(format!("linear_key_head_dim {keys} and linear_value_head_dim {values} differ"));
    }
    if (0..blocks).filter_map(attends).any(|attention| attention.qkv_bias || attention.o_bias) {
        return Err("attention_bias is true".into());
    }
    Ok(vec![
        ("ssm.conv_kernel", net.taps),
        ("ssm.state_size", net.key_dim),
        ("ssm.group_count", net.key_heads),
        ("ssm.time_step_rank", net.value_heads),
        ("ssm.inner_size", net.value_heads * net.value_dim),
        ("full_attention_interval", interval),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    const NET: DeltaNet = DeltaNet { key_heads: 2, value_heads: 6, key_dim: 32, value_dim: 32, taps: 4 };

    /// Heads of values 0, 1 and 2 share the first head of keys, the others the second one.
    #[test]
    fn the_first_values_of_all_keys_stand_before_the_second_ones() {
        let tiles = Tiles { before: 1, keys: 2, sharing: 3, size: 2 };
        let own: Vec<u32> = (0..13).collect();
        let stored = [0, 1, 2, 7, 8, 3, 4, 9, 10, 5, 6, 11, 12];
        assert_eq!(tiles.write(&own, 1), stored);
        assert_eq!(tiles.read(&stored, 1), own);
    }

    #[test]
    fn columns_move_as_blocks_where_they_can() {
        let columns = Reordered::of("model.layers.0.linear_attn.out_proj.weight", &NET).unwrap();
        let wide = |block: usize| DeltaNet { key_dim: block, value_dim: block, ..NET };
        for (net, stored, want) in [
            (wide(32), Dtype::Q8_0, Dtype::Q8_0),
            (wide(16), Dtype::Q8_0, Dtype::F16),
            (wide(128), Dtype::Q4K, Dtype::F16),
            (wide(256), Dtype::Q4K, Dtype::Q4K),
            (wide(5), Dtype::F32, Dtype::F32),
            (wide(5), Dtype::BF16, Dtype::BF16),
        ] {
            let columns = Reordered::of("model.layers.0.linear_attn.out_proj.weight", &net).unwrap();
            assert_eq!(columns.dtype(stored), want, "{stored}");
            // Heads differ by more than what quantising to few bits changes.
            let width = 6 * net.value_dim;
            let head = |i: usize| (i % width / net.value_dim) as f32 + (i / width * 8) as f32;
            let values: Vec<f32> = (0..4 * width).map(head).collect();
            let bytes = stored.encode(&columns.write(&values, 4));
            let Ok(bytes) = bytes else { continue };
            let mut got = Vec::new();
            want.dequantise(&columns.read(&bytes, &[4, width], stored), &mut got);
            assert!(got.iter().zip(&values).all(|(a, b)| (a - b).abs() < 0.4), "{stored}");
        }
        assert!(columns.fits(&[4, 192], Some(&Dtype::Q8_0)).is_ok());
        assert!(columns.fits(&[4, 191], None).unwrap_err().contains("2 heads of keys with 3 heads of values"));
        assert!(columns.fits(&[192], None).is_err());
        let bias = Reordered::of("model.layers.0.linear_attn.dt_bias", &NET).unwrap();
        assert!(bias.fits(&[6], Some(&Dtype::Q8_0)).unwrap_err().contains("cannot be reordered"));
        let alone = DeltaNet { value_heads: 2, ..NET };
        assert_eq!(Reordered::of("model.layers.0.linear_attn.in_proj_z.weight", &alone), None);
    }

    #[test]
    fn decays_are_logarithms_here() {
        let decays = Reordered::of("model.layers.0.linear_attn.A_log", &NET).unwrap();
        let logs = [-3.5f32, 0.0, 1.25, 2.0, -0.5, 0.75];
        let stored = decays.write(&logs, 6);
        assert!((stored[1] + 2f32.exp()).abs() < 1e-5);
        let bytes: Vec<u8> = stored.iter().flat_map(|x| x.to_le_bytes()).collect();
        let mut got = Vec::new();
        Dtype::F32.dequantise(&decays.read(&bytes, &[6], Dtype::F32), &mut got);
        assert!(got.iter().zip(&logs).all(|(a, b)| (a - b).abs() < 3e-7), "{got:?}");
    }
}
