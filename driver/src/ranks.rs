//! The processes that one mpirun started and that train together.

use anyhow::{Result, bail};
use selfreward::train::exchange::{Alone, Exchange};

/// Variables that say how many processes were started: Open MPI's, and that of MPICH and its kin.
const SIZES: [&str; 2] = ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE"];
/// A variable that is set by what starts processes without saying here how many, such as srun.
#[cfg(feature = "mpi")]
const STARTED: &str = "PMIX_RANK";

/// What the processes share of a command.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sharing {
    /// Each step's records.
    Steps,
    /// Parts of the work that a flag tells apart.
    Shards,
    /// Nothing: every process would do the same.
    Nothing,
}

/// This process among those that mpirun started, if there are others.
pub(crate) struct Ranks {
    #[cfg(feature = "mpi")]
    mpi: Option<(selfreward::train::mpi::Mpi, usize)>,
}

impl Ranks {
    /// Joins the processes that mpirun started, if there are others. Only `sft` and `dpo` share their work; the shards
    /// of a run are told apart by their flag.
    pub(crate) fn join(sharing: Sharing) -> Result<Self> {
        let several = |name: &&str| std::env::var(name).ok()?.parse::<usize>().ok().filter(|n| *n > 1);
        let ranks = SIZES.iter().find_map(several);
        if sharing == Sharing::Steps {
            return Self::several(ranks);
        }
        if let Some(ranks) = ranks
            && sharing == Sharing::Nothing
        {
            bail!(
                "mpirun started this {ranks} times, and every one would do the same: only sft and dpo share their work \
                 among the processes of MPI. Start it once (docs/SCALING.md says how a run is shared)"
            );
        }
        Ok(Self::alone())
    }

    /// What the name of a process begins with in its error; empty if it is alone.
    pub(crate) fn name(&self) -> String {
        match self.exchange().ranks() {
            1 => String::new(),
            n => format!("rank {} of {n}: ", self.exchange().rank()),
        }
    }
}

#[cfg(feature = "mpi")]
impl Ranks {
    fn alone() -> Self {
        Self { mpi: None }
    }

    fn several(ranks: Option<usize>) -> Result<Self> {
        if ranks.is_none() && std::env::var_os(STARTED).is_none() {
            return Ok(Self::alone());
        }
        let mpi = selfreward::train::mpi::Mpi::start()?;
        let turn = mpi.local_rank();
        Ok(Self { mpi: Some((mpi, turn)) })
    }

    /// The means by which the processes exchange data.
    pub(crate) fn exchange(&self) -> &dyn Exchange {
        match &self.mpi {
            Some((mpi, _)) => mpi,
            None => &Alone,
        }
    }

    /// This process's place among those on this machine.
    pub(crate) fn turn(&self) -> usize {
        self.mpi.as_ref().map_or(0, |(_, turn)| *turn)
    }

    /// Ends this process and the others, which would otherwise wait for it for ever.
    pub(crate) fn end_all(&self, code: u8) {
        if let Some((mpi, _)) = &self.mpi {
            mpi.abort(code);
        }
    }
}

#[cfg(not(feature = "mpi"))]
impl Ranks {
    fn alone() -> Self {
        Self {}
    }

    fn several(ranks: Option<usize>) -> Result<Self> {
        match ranks {
            None => Ok(Self::alone()),
            Some(n) => bail!(
                "mpirun started this {n} times, but it was built without MPI: build it with --features mpi, \
                 or start it once"
            ),
        }
    }

    /// The means by which the processes exchange data; alone there is nothing to exchange.
    pub(crate) fn exchange(&self) -> &dyn Exchange {
        &Alone
    }

    /// This process's place among those on this machine: the first.
    pub(crate) fn turn(&self) -> usize {
        0
    }

    /// Does nothing, since there are no other processes.
    pub(crate) fn end_all(&self, _: u8) {}
}
