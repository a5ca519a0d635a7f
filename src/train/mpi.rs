//! [`Exchange`] over MPI.

use super::exchange::Exchange;
use crate::{Error, Result};
use mpi::Threading;
use mpi::datatype::PartitionMut;
use mpi::environment::Universe;
use mpi::topology::SimpleCommunicator;
use mpi::traits::{Communicator, CommunicatorCollectives};

/// How many values travel at once. It bounds the memory beside the gradients, and the counts, which MPI keeps in 32
/// bits.
const MOST: usize = 1 << 22;

/// The processes that one `mpirun` started. When this is dropped, all of them wait for one another; when a panic drops
/// it, they are ended.
pub struct Mpi {
    universe: Option<Universe>,
    world: SimpleCommunicator,
}

impl Mpi {
    /// Joins the other processes. Call it once, and use the result only in the thread that called it.
    ///
    /// # Errors
    /// MPI is running already, or it cannot serve a program with threads.
    pub fn start() -> Result<Self> {
        let (universe, threading) = mpi::initialize_with_threading(Threading::Funneled)
            .ok_or_else(|| Error::Device("MPI was started before".into()))?;
        if threading < Threading::Funneled {
            return Err(Error::Device("this MPI serves no program with threads (MPI_THREAD_FUNNELED)".into()));
        }
        let world = universe.world();
        Ok(Self { universe: Some(universe), world })
    }

    /// The place of this process among those on this machine, from 0.
    pub fn local_rank(&self) -> usize {
        self.world.split_shared(self.world.rank()).rank() as usize
    }

    /// Ends all processes with an exit code.
    pub fn abort(&self, code: u8) -> ! {
        self.world.abort(code.into())
    }
}

impl Drop for Mpi {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // The others wait for this process, and MPI's own end would wait for them.
            self.abort(101);
        }
        drop(self.universe.take());
    }
}

impl Exchange for Mpi {
    fn rank(&self) -> usize {
        self.world.rank() as usize
    }

    fn ranks(&self) -> usize {
        self.world.size() as usize
    }

    /// Each rank gets its part of the values from all others, adds it up in f64 and sends the sums to all. So 2 (n − 1)
    /// / n of the values' bytes leave a rank, as with a ring, and MPI does not choose the order of additions.
    fn sum(&self, values: &mut [f32]) -> Result<()> {
        let ranks = self.ranks();
        for chunk in values.chunks_mut(MOST) {
            let part = chunk.len().div_ceil(ranks);
            let mut sent = vec![0f32; part * ranks];
            sent[..chunk.len()].copy_from_slice(chunk);
            let mut parts = vec![0f32; part * ranks];
            self.world.all_to_all_into(&sent[..], &mut parts[..]);
            let sum = |i: usize| (0..ranks).map(|rank| f64::from(parts[rank * part + i])).sum::<f64>() as f32;
            let sums: Vec<f32> = (0..part).map(sum).collect();
            self.world.all_gather_into(&sums[..], &mut sent[..]);
            chunk.copy_from_slice(&sent[..chunk.len()]);
        }
        Ok(())
    }

    fn gather(&self, values: &[f64]) -> Result<Vec<f64>> {
        let mut counts = vec![0i32; self.ranks()];
        let count = i32::try_from(values.len())
            .map_err(|_| Error::Input(format!("{} values are more than MPI counts", values.len())))?;
        self.world.all_gather_into(&count, &mut counts[..]);
        let mut whole = 0i32;
        let mut starts = Vec::with_capacity(counts.len());
        for count in &counts {
            starts.push(whole);
            whole = whole.checked_add(*count).ok_or_else(|| Error::Input("more values than MPI counts".into()))?;
        }
        let mut all = vec![0f64; whole as usize];
        self.world.all_gather_varcount_into(values, &mut PartitionMut::new(&mut all[..], counts, starts));
        Ok(all)
    }
}
