//! What preference training is given: pairs, single answers with labels, and the log-probs of answers.

/// A preference between two answers to one prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct Pair {
    /// Token ids of the prompt; at least one.
    pub prompt: Vec<u32>,
    /// Token ids of the preferred answer; at least one.
    pub chosen: Vec<u32>,
    /// Token ids of the other answer; at least one.
    pub rejected: Vec<u32>,
    /// If `chosen` is a single answer (see [`unpaired`]), its label; otherwise true.
    pub desirable: bool,
    /// Weight of the pair's loss in the mean of a step; 1 for pairs that weigh alike.
    pub weight: f32,
    /// Probability that the preference is the other way round, where 0 is a hard label. The loss is (1 − flip)
    /// L(chosen, rejected) + flip L(rejected, chosen).
    pub flip: f32,
}

impl Pair {
    /// Most rows that the pair takes, with the prompt in them once.
    pub fn rows(&self) -> usize {
        self.prompt.len() + self.chosen.len() + self.rejected.len()
    }

    /// A preference with weight 1 and a hard label.
    pub fn new(prompt: Vec<u32>, chosen: Vec<u32>, rejected: Vec<u32>) -> Self {
        Self { prompt, chosen, rejected, desirable: true, weight: 1.0, flip: 0.0 }
    }

    /// Whether the pair has a weight or a soft label of its own.
    pub(super) fn soft(&self) -> bool {
        self.weight != 1.0 || self.flip != 0.0
    }
}

/// A single answer with a label.
#[derive(Clone, Debug, PartialEq)]
pub struct Labelled {
    /// Token ids of the prompt; at least one.
    pub prompt: Vec<u32>,
    /// Token ids of the answer; at least one.
    pub completion: Vec<u32>,
    /// Whether the answer is wanted.
    pub desirable: bool,
}

/// Single answers as pairs, for the losses on single answers. For the estimate of the KL, a mismatched answer takes the
/// place of the rejected one, as in TRL: in each run of `batch` records that is the answer of the record before, and
/// for the first record that of the last.
pub fn unpaired(records: &[Labelled], batch: usize) -> Vec<Pair> {
    let of = |part: &[Labelled]| -> Vec<Pair> {
        let before = part.iter().cycle().skip(part.len() - 1);
        let pair = |(r, other): (&Labelled, &Labelled)| Pair {
            desirable: r.desirable,
            ..Pair::new(r.prompt.clone(), r.completion.clone(), other.completion.clone())
        };
        part.iter().zip(before).map(pair).collect()
    };
    records.chunks(batch.max(1)).flat_map(of).collect()
}

/// The summed log-probs of one pair's answers.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PairLogps {
    /// Σ log p of the chosen answer's tokens.
    pub chosen: f32,
    /// Σ log p of the rejected answer's tokens.
    pub rejected: f32,
    /// The part of each sum that lies behind the shorter answer's length, which LD-DPO weighs.
    pub tail: [f32; 2],
}

impl PairLogps {
    /// Sums the log-probs, given for every token.
    pub fn new(chosen: &[f32], rejected: &[f32]) -> Self {
        let shared = chosen.len().min(rejected.len());
        let sum = |part: &[f32]| part.iter().map(|x| f64::from(*x)).sum::<f64>() as f32;
        Self { chosen: sum(chosen), rejected: sum(rejected), tail: [sum(&chosen[shared..]), sum(&rejected[shared..])] }
    }

    /// The numbers as bits: chosen, rejected, tails.
    pub(crate) fn bits(&self) -> [u32; 4] {
        [self.chosen, self.rejected, self.tail[0], self.tail[1]].map(f32::to_bits)
    }

    /// The numbers of [`PairLogps::bits`].
    pub(crate) fn from_bits(bits: [u32; 4]) -> Self {
        let [chosen, rejected, c, r] = bits.map(f32::from_bits);
        Self { chosen, rejected, tail: [c, r] }
    }

    /// The sums (chosen, rejected), with the tails weighted by LD-DPO's α.
    pub(super) fn weighted(&self, alpha: f32) -> [f64; 2] {
        let of = |sum: f32, tail: f32| f64::from(sum) - (1.0 - f64::from(alpha)) * f64::from(tail);
        [of(self.chosen, self.tail[0]), of(self.rejected, self.tail[1])]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mismatched_answers_are_those_of_the_record_before() {
        let record = |i: u32| Labelled { prompt: vec![i], completion: vec![10 + i], desirable: i.is_multiple_of(2) };
        let pairs = unpaired(&(0..5).map(record).collect::<Vec<_>>(), 3);
        assert_eq!(pairs.iter().map(|p| p.rejected[0]).collect::<Vec<_>>(), [12, 10, 11, 14, 13]);
        assert_eq!(pairs.iter().map(|p| p.chosen[0]).collect::<Vec<_>>(), [10, 11, 12, 13, 14]);
    }
}
