//! What the ranks of one training tell each other. Each rank holds the whole model and computes the gradients of its
//! share of a step's records with the normalisers of the whole step; their sum is then the step's gradient, and
//! clipping and AdamW run alike everywhere.

use crate::{Error, Result};
use std::ops::Range;

/// The processes of one training. All of them must call each method but `rank` and `ranks`, in the same order.
pub trait Exchange {
    /// Number of this process, from 0.
    fn rank(&self) -> usize;

    /// How many processes there are.
    fn ranks(&self) -> usize;

    /// Replaces `values` by their sums over the ranks; all ranks pass equally many. The sums are made in the order of
    /// the ranks, so that all ranks get the same bits.
    ///
    /// # Errors
    /// The other processes cannot be reached.
    fn sum(&self, values: &mut [f32]) -> Result<()>;

    /// The values of all ranks, one rank's after the other's in the order of the ranks; each may pass any number.
    ///
    /// # Errors
    /// The other processes cannot be reached.
    fn gather(&self, values: &[f64]) -> Result<Vec<f64>>;
}

/// The exchange of a training by one process, which has nothing to tell.
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
    /// The other processes cannot be reached.
    pub fn barrier(&self) -> Result<()> {
        self.gather(&[]).map(drop)
    }

    /// Whether `here` is true on any rank.
    ///
    /// # Errors
    /// The other processes cannot be reached.
    pub fn any(&self, here: bool) -> Result<bool> {
        if self.ranks() == 1 {
            return Ok(here);
        }
        Ok(self.gather(&[f64::from(u8::from(here))])?.contains(&1.0))
    }

    /// Replaces `values` by their sums over the ranks; all ranks pass equally many.
    pub(super) fn total(&self, values: &mut [f64]) -> Result<()> {
        if self.ranks() > 1 && !values.is_empty() {
            let all = self.gather(values)?;
            values.fill(0.0);
            all.chunks_exact(values.len()).for_each(|rank| values.iter_mut().zip(rank).for_each(|(s, x)| *s += x));
        }
        Ok(())
    }

    /// The neighbouring records of a step that belong to this rank, given the rows of each record: those whose middle
    /// row lies in the rank's part of all rows. Of few records a rank may get none.
    pub(super) fn own_records(&self, rows: &[usize]) -> Range<usize> {
        records_of(rows, self.rank(), self.ranks())
    }

    /// Refuses ranks that differ in `what`, of which each passes a number.
    ///
    /// # Errors
    /// The ranks differ, or the other processes cannot be reached.
    pub fn agree(&self, what: &str, here: impl FnOnce() -> u32) -> Result<()> {
        if self.ranks() == 1 {
            return Ok(());
        }
        let all = self.gather(&[f64::from(here())])?;
        match all.iter().position(|x| *x != all[0]) {
            None => Ok(()),
            Some(rank) => Err(Error::Input(format!(
                "ranks 0 and {rank} differ in {what}; give every rank the same command, and the same model, data and \
                 output folder on a file system that all of them share"
            ))),
        }
    }
}

fn records_of(rows: &[usize], rank: usize, ranks: usize) -> Range<usize> {
    let whole: usize = rows.iter().sum();
    let mut before = 0;
    // Twice the middle is a whole number.
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
            let got: Vec<_> = (0..ranks).map(|rank| records_of(&rows, rank, ranks)).map(|r| (r.start, r.end)).collect();
            assert_eq!(got, want, "{rows:?}");
        }
    }
}
