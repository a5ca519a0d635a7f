//! The processes that one mpirun or one scheduler started: those that train together, and those that share a round.

use anyhow::{Context, Result, bail, ensure};
use selfreward::recipe::shards::Shard;
use selfreward::train::exchange::{Alone, Exchange};

/// A variable that programs such as srun set for each process that they start; it does not say how many there are.
#[cfg(feature = "mpi")]
const STARTED: &str = "PMIX_RANK";

/// Variables by which a process is told its number among those that were started with it, and how many they are: by
/// Slurm's arrays and by srun.
const SLURM: [[&str; 2]; 2] = [["SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT"], ["SLURM_PROCID", "SLURM_NTASKS"]];
/// The variables by which Open MPI, and MPICH and its kin, tell a process these two numbers.
const MPI: [[&str; 2]; 2] = [["OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"], ["PMI_RANK", "PMI_SIZE"]];
/// The first number of a Slurm array, and the distance of two.
const ARRAY: [&str; 2] = ["SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_STEP"];

/// The shard that is this process's by its place among those that were started with it, with the variable that says
/// so; `None` if it was started alone. `of` gives the variables of the environment.
pub(crate) fn shard(of: impl Fn(&str) -> Option<String>) -> Result<Option<(Shard, &'static str)>> {
    let number = |name: &str| -> Result<Option<usize>> {
        let Some(text) = of(name).filter(|text| !text.is_empty()) else { return Ok(None) };
        let what = || format!("{name} is {text:?} in the environment; expected a whole number");
        text.trim().parse().map(Some).with_context(what)
    };
    for [place, count] in SLURM.into_iter().chain(MPI) {
        let (Some(at), Some(of)) = (number(place)?, number(count)?) else { continue };
        if of <= 1 {
            continue;
        }
        // An array may begin anywhere and leave numbers out; all others count from 0.
        let (first, step) = match place == SLURM[0][0] {
            true => (number(ARRAY[0])?.unwrap_or(at.min(1)), number(ARRAY[1])?.unwrap_or(1).max(1)),
            false => (0, 1),
        };
        let number = at.checked_sub(first).map(|at| at / step + 1).filter(|number| *number <= of);
        ensure!(number.is_some(), "{place} is {at} in the environment, which is no place among the {of} of {count}");
        return Ok(number.map(|number| (Shard { number, of }, place)));
    }
    Ok(None)
}

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
        let several = |[_, count]: &[&str; 2]| std::env::var(count).ok()?.parse::<usize>().ok().filter(|n| *n > 1);
        let ranks = MPI.iter().find_map(several);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_finds_its_shard_where_its_starter_says() {
        let of = |given: &[(&str, &str)]| {
            shard(|name| given.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()))
        };
        let found = |given: &[(&str, &str)]| of(given).unwrap().map(|(shard, by)| (shard.number, shard.of, by));
        assert_eq!(found(&[]), None);
        assert_eq!(found(&[("SLURM_PROCID", "0"), ("SLURM_NTASKS", "1")]), None);
        assert_eq!(found(&[("SLURM_PROCID", "0"), ("SLURM_NTASKS", "4")]), Some((1, 4, "SLURM_PROCID")));
        assert_eq!(found(&[("OMPI_COMM_WORLD_RANK", "3"), ("OMPI_COMM_WORLD_SIZE", "4")]).map(|f| f.0), Some(4));
        assert_eq!(found(&[("PMI_RANK", "1"), ("PMI_SIZE", "2")]), Some((2, 2, "PMI_RANK")));
        // An array is what tells apart, whatever each of its tasks was given.
        let array = [("SLURM_ARRAY_TASK_ID", "8"), ("SLURM_ARRAY_TASK_COUNT", "8"), ("SLURM_PROCID", "0")];
        assert_eq!(found(&array), Some((8, 8, "SLURM_ARRAY_TASK_ID")));
        let from_0 = [("SLURM_ARRAY_TASK_ID", "0"), ("SLURM_ARRAY_TASK_COUNT", "8")];
        assert_eq!(found(&from_0).map(|f| f.0), Some(1));
        let stepped = [
            ("SLURM_ARRAY_TASK_ID", "14"),
            ("SLURM_ARRAY_TASK_COUNT", "3"),
            ("SLURM_ARRAY_TASK_MIN", "10"),
            ("SLURM_ARRAY_TASK_STEP", "2"),
        ];
        assert_eq!(found(&stepped).map(|f| f.0), Some(3));
        for (given, word) in [
            ([("PMI_RANK", "x"), ("PMI_SIZE", "2")], "PMI_RANK is \"x\""),
            ([("PMI_RANK", "2"), ("PMI_SIZE", "2")], "no place among the 2 of PMI_SIZE"),
        ] {
            let error = format!("{:#}", of(&given).unwrap_err());
            assert!(error.contains(word), "{error}");
        }
    }
}
