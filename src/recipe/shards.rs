//! The answers and verdicts of a round on several machines. Each of them takes a shard of the prompts and writes into a
//! folder of its own; the run that continues checks that nothing is missing, and merges.

use super::context::{RoundContext, RoundFiles};
use super::stages::{candidates, verdicts};
use crate::data::records::{CandidateRecord, PromptRecord, VerdictRecord};
use crate::disk::{self, File, OnDisk};
use crate::durable;
use crate::generate::Engine;
use crate::json::{read_jsonl, write_jsonl};
use crate::judge::Judge;
use crate::lock::Lock;
use crate::{Error, Result};
use std::collections::HashMap;
use std::path::PathBuf;
use std::str::FromStr;

const FOLDER: &str = "shards";

/// One of several shards of a round's prompts, written as `2/8`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    /// Number of the shard, from 1.
    pub number: usize,
    /// How many shards there are.
    pub of: usize,
}

impl FromStr for Shard {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || Error::Input(format!("shard {text:?}: expected NUMBER/OF such as 2/8, numbers from 1"));
        let (number, of) = text.split_once('/').ok_or_else(wrong)?;
        match (number.parse(), of.parse()) {
            (Ok(number), Ok(of)) if (1..=of).contains(&number) => Ok(Self { number, of }),
            _ => Err(wrong()),
        }
    }
}

impl Shard {
    fn dir(self, files: &RoundFiles) -> PathBuf {
        files.dir.join(FOLDER).join(format!("{}-of-{}", self.number, self.of))
    }

    /// The prompts of this shard among all prompts of a round.
    fn prompts(self, all: &[PromptRecord]) -> Vec<PromptRecord> {
        all.iter().skip(self.number - 1).step_by(self.of).cloned().collect()
    }
}

/// Writes the answers and the verdicts of one shard of the round's prompts. A finished shard is left as it is.
///
/// # Errors
/// The round has no prompts yet; another process works on this shard; errors of the stages.
pub fn run(
    engine: &mut dyn Engine,
    ctx: &RoundContext,
    judge: &dyn Judge,
    files: &RoundFiles,
    shard: Shard,
) -> Result<usize> {
    let prompts = files.jsonl("prompts");
    if !prompts.is_there() {
        let what = format!("round {} has no prompts yet: write them with run --until prompts", ctx.round);
        return Err(Error::file(&files.dir, what));
    }
    let own = shard.prompts(&read_jsonl::<PromptRecord>(&prompts)?);
    if files.jsonl("verdicts").is_there() {
        ctx.observer.note(&format!("round {}: answers and verdicts are merged already", ctx.round));
        return Ok(own.len());
    }
    let dir = shard.dir(files);
    durable::create_folder(&dir)?;
    let _lock = Lock::take(&dir, File::try_lock, ctx.observer)?;
    let candidates = candidates::run(engine, ctx, "candidates", &own, &dir.join("candidates.jsonl"))?;
    verdicts::run(engine, judge, ctx, "verdicts", &own, &candidates, &dir.join("verdicts.jsonl"))?;
    Ok(own.len())
}

/// Whether shards have begun on a round that is not merged yet.
pub fn begun(files: &RoundFiles) -> bool {
    files.dir.join(FOLDER).is_folder() && !files.jsonl("verdicts").is_there()
}

/// The shards of a round that are not finished, whether they have begun or not, as `--shard` names them; empty if the
/// round has none.
///
/// # Errors
/// The shards that have begun disagree about how many there are.
pub fn missing(files: &RoundFiles) -> Result<Vec<String>> {
    if !begun(files) {
        return Ok(Vec::new());
    }
    let of = count(&files.dir.join(FOLDER))?;
    let shards = (1..=of).map(|number| Shard { number, of });
    let open = shards.filter(|shard| !shard.dir(files).join("verdicts.jsonl").is_there());
    Ok(open.map(|shard| format!("{}/{of}", shard.number)).collect())
}

/// Merges the shards of a round, if it has any, into its candidates and verdicts.
///
/// # Errors
/// A shard is missing or not finished, or the shards disagree about how many there are, where the error says which and
/// what to run; their records do not fit the round's prompts.
pub fn merge(ctx: &RoundContext, files: &RoundFiles, prompts: &[PromptRecord]) -> Result<()> {
    if !begun(files) {
        return Ok(());
    }
    let folder = files.dir.join(FOLDER);
    let of = count(&folder)?;
    let missing = missing(files)?;
    if !missing.is_empty() {
        let list = missing.join(", ");
        let what =
            format!("not finished are the shards {list}; run these, or remove the folder to go on without shards");
        return Err(Error::file(&folder, what));
    }
    let (mut candidates, mut verdicts) = (Vec::new(), Vec::new());
    for shard in (1..=of).map(|number| Shard { number, of }) {
        candidates.extend(read_jsonl::<CandidateRecord>(&shard.dir(files).join("candidates.jsonl"))?);
        verdicts.extend(read_jsonl::<VerdictRecord>(&shard.dir(files).join("verdicts.jsonl"))?);
    }
    complete(ctx, prompts, &candidates, &verdicts).map_err(|what| Error::file(&folder, what))?;
    // A run without shards has its records in this order.
    candidates.sort_by(|a, b| (&a.prompt_id, a.sample).cmp(&(&b.prompt_id, b.sample)));
    let place: HashMap<&str, usize> = prompts.iter().enumerate().map(|(at, p)| (p.id.as_str(), at)).collect();
    verdicts.sort_by_key(|v| place.get(v.prompt_id.as_str()).copied());
    write_jsonl(&files.jsonl("candidates"), &candidates)?;
    write_jsonl(&files.jsonl("verdicts"), &verdicts)?;
    ctx.observer.note(&format!("round {}: merged {of} shards", ctx.round));
    Ok(())
}

/// How many shards the folder is to have.
fn count(folder: &std::path::Path) -> Result<usize> {
    let mut found = Vec::new();
    for entry in disk::read_dir(folder).map_err(Error::io(folder))?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        found.extend(name.split_once("-of-").and_then(|(_, of)| of.parse::<usize>().ok()));
    }
    found.sort_unstable();
    found.dedup();
    match found[..] {
        [of] => Ok(of),
        [] => Err(Error::file(folder, "holds no shard; remove it to go on without shards")),
        _ => {
            let all: Vec<String> = found.iter().map(usize::to_string).collect();
            let what = format!("holds shards of {}; keep those of one number", all.join(" and of "));
            Err(Error::file(folder, what))
        }
    }
}

/// Checks that every prompt has all of its candidates, and every candidate one verdict.
fn complete(
    ctx: &RoundContext,
    prompts: &[PromptRecord],
    candidates: &[CandidateRecord],
    verdicts: &[VerdictRecord],
) -> std::result::Result<(), String> {
    let mut answers: HashMap<&str, u32> = prompts.iter().map(|p| (p.id.as_str(), 0)).collect();
    for c in candidates {
        let n = answers.get_mut(c.prompt_id.as_str());
        *n.ok_or_else(|| format!("candidate {} answers no prompt of this round", c.id))? += 1;
    }
    if let Some((id, n)) = answers.iter().find(|(_, n)| **n != ctx.settings.candidates.n) {
        return Err(format!("prompt {id} has {n} candidates, expected {}", ctx.settings.candidates.n));
    }
    let mut judged: HashMap<&str, u32> = candidates.iter().map(|c| (c.id.as_str(), 0)).collect();
    for id in verdicts.iter().flat_map(|v| &v.candidate_ids) {
        let n = judged.get_mut(id.as_str());
        *n.ok_or_else(|| format!("a verdict names candidate {id}, which is none"))? += 1;
    }
    match judged.iter().find(|(_, n)| **n != 1) {
        Some((id, n)) => Err(format!("candidate {id} has {n} verdicts, expected 1")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_are_read_and_refused() {
        assert_eq!("2/8".parse::<Shard>().unwrap(), Shard { number: 2, of: 8 });
        for text in ["0/8", "9/8", "1", "a/b", "1/0", "-1/2", ""] {
            let e = text.parse::<Shard>().unwrap_err().to_string();
            assert!(e.contains("2/8"), "{text}: {e}");
        }
    }
}
