//! One expert's values out of the tensor of all experts, plain or in blocks of MXFP4 as transformers has them.

use std::ops::Range;

/// Values of a block of MXFP4, and the bytes that hold them.
pub(super) const VALUES: usize = 32;
pub(super) const BYTES: usize = 16;

/// The values of one expert out of a stack whose values take `bytes` bytes; None where the stack is too short.
pub(super) fn out_of_stack(
    stack: &[u8],
    bytes: usize,
    shape: &[usize],
    first: usize,
    [out, inner]: [usize; 2],
) -> Option<Vec<u8>> {
    let ins = shape.get(1).copied().unwrap_or(1);
    let mut all = Vec::with_capacity(shape.iter().product::<usize>() * bytes);
    for row in 0..*shape.first()? {
        for i in 0..ins {
            let at = (first + row * out + i * inner) * bytes;
            all.extend_from_slice(stack.get(at..at + bytes)?);
        }
    }
    Some(all)
}

/// Rows `first`, `first + step`, … of a stack of blocks, as [`crate::arch::Dtype::Mxfp4`] has them: the scale first,
/// and the values of a block's second half in the upper bits. None where a tensor is too short.
pub(super) fn out_of_blocks(
    (blocks, scales): (&[u8], &[u8]),
    shape: &[usize],
    (first, step): (usize, usize),
) -> Option<Vec<u8>> {
    let [rows, ins] = shape[..] else { return None };
    let per_row = ins / VALUES;
    let mut all = Vec::with_capacity(rows * per_row * (BYTES + 1));
    for row in 0..rows {
        let here: Range<usize> = (first + row * step) * per_row..(first + row * step + 1) * per_row;
        for at in here {
            let block = blocks.get(at * BYTES..(at + 1) * BYTES)?;
            // Neighbours share a byte there, the first one in the lower bits.
            let value = |i: usize| block[i / 2] >> (i % 2 * 4) & 15;
            all.push(*scales.get(at)?);
            all.extend((0..BYTES).map(|i| value(i) | value(i + BYTES) << 4));
        }
    }
    Some(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expert_comes_out_of_its_stack() {
        // [2 experts, 2 in, 4 out by turns].
        let stack: Vec<u8> = (0..16).collect();
        assert_eq!(out_of_stack(&stack, 1, &[2, 2], 8 + 1, [2, 4]).unwrap(), [9, 13, 11, 15]);
        assert_eq!(out_of_stack(&stack, 2, &[2], 4, [2, 0]).unwrap(), [8, 9, 12, 13]);
        assert_eq!(out_of_stack(&stack, 2, &[2, 2], 8, [2, 4]), None);
    }

    #[test]
    fn blocks_are_put_in_the_order_of_gguf() {
        // Three rows of one block: the values of row r count up from r.
        let block = |r: u8| (0..16).map(move |i| (2 * i + r) & 15 | ((2 * i + 1 + r) & 15) << 4);
        let blocks: Vec<u8> = (0..3).flat_map(block).collect();
        let got = out_of_blocks((&blocks, &[120, 121, 122]), &[2, 32], (0, 2)).unwrap();
        for (row, bytes) in got.chunks_exact(17).enumerate() {
            assert_eq!(bytes[0], 120 + 2 * row as u8);
            let mut values: Vec<u8> = bytes[1..].iter().map(|b| b & 15).collect();
            values.extend(bytes[1..].iter().map(|b| b >> 4));
            assert_eq!(values, (0..32).map(|i| (i + 2 * row as u8) & 15).collect::<Vec<_>>());
        }
        assert_eq!(out_of_blocks((&blocks, &[120, 121]), &[2, 32], (0, 2)), None);
    }
}
