//! What the ranks of one training tell each other. Each rank holds the whole model and computes the gradients of its share of
//! a step's records with the normalisers of the whole step; their sum is then the step's gradient, and clipping and AdamW run
//! alike everywhere.

use crate::{Error, Result};
use std::ops::Range;

/// The processes of one training. Every method but `rank` and `ranks` must be called by all of them, in the same order.
pub trait Exchange {
    /// This process, from 0.
    fn rank(&self) -> usize;

    /// How many there are.
    fn ranks(&self) -> usize;

    /// Puts Σ over the ranks in place of `values` (as many everywhere), added in the order of the ranks, so that all of them
    /// get the same bits.
    ///
    /// # Errors
    /// The others cannot be reached.
    fn sum(&self, values: &mut [f32]) -> Result<()>;

    /// The values of all ranks (any number each) one after the other, in the order of the ranks.
    ///
    /// # Errors
    /// The others cannot be reached.
    fn gather(&self, values: &[f64]) -> Result<Vec<f64>>;
}

/// A training by one process.
pub struct Alone;

impl Exchange for Alone {
    fn rank(&self) -> usize {
        0
    }

    fn ranks(&self) -> usize {
        1
    }

    fn sum(&self, _: &mut [f32]) -> Result<()> {
        Ok(())
    }

    fn gather(&self, values: &[f64]) -> Result<Vec<f64>> {
        Ok(values.to_vec())
    }
}

impl dyn Exchange + '_ {
    /// Whether this is the rank that writes files.
    pub fn first(&self) -> bool {
        self.rank() == 0
    }

    /// Waits until every rank has come here.
    ///
    /// # Errors
    /// The others cannot be reached.
    pub fn barrier(&self) -> Result<()> {
        self.gather(&[]).map(drop)
    }

    /// Whether `here` holds on any rank.
    ///
    /// # Errors
    /// The others cannot be reached.
    pub fn any(&self, here: bool) -> Result<bool> {
        if self.ranks() == 1 {
            return Ok(here);
        }
        Ok(self.gather(&[f64::from(u8::from(here))])?.contains(&1.0))
    }

    /// Puts the sums over the ranks in place of `values` (as many everywhere).
    pub(super) fn total(&self, values: &mut [f64]) -> Result<()> {
        if self.ranks() > 1 && !values.is_empty() {
            let all = self.gather(values)?;
            values.fill(0.0);
            all.chunks_exact(values.len()).for_each(|rank| values.iter_mut().zip(rank).for_each(|(s, x)| *s += x));
        }
        Ok(())
    }

    /// The neighbouring records of a step that are this rank's, of records with so many `rows` each: those whose middle row
    /// lies in its part of all rows. Few records may leave a rank without any.
    pub(super) fn share(&self, rows: &[usize]) -> Range<usize> {
        share(rows, self.rank(), self.ranks())
    }

    /// Refuses ranks that differ in `what`, given as a number.
    ///
    /// # Errors
    /// They differ; the others cannot be reached.
    pub fn agree(&self, what: &str, here: impl FnOnce() -> u32) -> Result<()> {
        if self.ranks() == 1 {
            return Ok(());
        }
        let all = self.gather(&[f64::from(here())])?;
        match all.iter().position(|x| *x != all[0]) {
            None => Ok(()),
            Some(rank) => Err(Error::Input(format!(
                "ranks 0 and {rank} differ in {what}; give every rank the same command, and the same model, data and output \
                 folder on a file system that all of them share"
            ))),
        }
    }
}

fn share(rows: &[usize], rank: usize, ranks: usize) -> Range<usize> {
    let whole: usize = rows.iter().sum();
    let mut before = 0;
    // Twice the middle, to stay in whole numbers.
    let owner = rows.iter().map(|n| {
        before += n;
        (2 * before - n) * ranks / (2 * whole).max(1)
    });
    let owners: Vec<usize> = owner.collect();
    owners.partition_point(|o| *o < rank)..owners.partition_point(|o| *o <= rank)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_neighbours_that_cover_a_step() {
        for (rows, ranks, want) in [
            (vec![5; 4], 2, vec![(0, 2), (2, 4)]),
            (vec![5; 3], 2, vec![(0, 1), (1, 3)]),
            (vec![10, 1], 2, vec![(0, 1), (1, 2)]),
            (vec![7], 3, vec![(0, 0), (0, 1), (1, 1)]),
            (vec![], 2, vec![(0, 0), (0, 0)]),
            (vec![30, 10, 10, 10], 2, vec![(0, 1), (1, 4)]),
            (vec![4; 7], 1, vec![(0, 7)]),
        ] {
            let got: Vec<_> = (0..ranks).map(|rank| share(&rows, rank, ranks)).map(|r| (r.start, r.end)).collect();
            assert_eq!(got, want, "{rows:?}");
        }
    }
}
