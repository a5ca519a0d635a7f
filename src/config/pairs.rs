//! `[pairs]`: how verdicts become preferences.

use super::demand;
use super::pair_rule::{PairRule, Select};
use crate::Result;
use crate::settings::{Range, Section, Takes, settings};
use serde::{Deserialize, Serialize};

/// A value for every round, or one for each round, of which the last one holds for all later rounds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected a number, or a list of numbers, one for each round")]
pub enum ByRound {
    /// The same value in every round.
    Always(f64),
    /// The value of the first round, that of the second, and so on.
    Each(Vec<f64>),
}

impl ByRound {
    /// The value of `round`, from 1; 0 if a list is empty.
    pub fn at(&self, round: u32) -> f64 {
        match self {
            Self::Always(value) => *value,
            Self::Each(list) => list.get(round.max(1) as usize - 1).or(list.last()).copied().unwrap_or(0.0),
        }
    }

    fn all(&self) -> &[f64] {
        match self {
            Self::Always(value) => std::slice::from_ref(value),
            Self::Each(list) => list,
        }
    }
}

/// How much a pair weighs in training.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Weighting {
    /// All pairs weigh alike.
    #[default]
    None,
    /// A pair weighs by the difference of its scores; the mean weight in a round is 1.
    Gap,
}

/// Whose answers are rejected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rejected {
    /// Those of the round's model.
    #[default]
    Own,
    /// From round 2 on those of the first model, M1, so that the difference does not shrink (Temporal Self-Rewarding,
    /// arXiv 2508.06026).
    First,
}

/// What is made of the agreement between the round's judge and the model before it (CREAM, arXiv 2410.12735). With C =
/// (τ + 1) / 2 of their rankings of a prompt's candidates (Kendall's τ-b), a pair's preference counts as the other way
/// round with probability 1 − C.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Agreement {
    /// Nothing is made of it.
    #[default]
    Off,
    /// C is the mean over the round's prompts, as in the paper.
    Round,
    /// C is each prompt's own.
    Prompt,
}

settings! {
    /// How scores become preferences. Gaps and margins are in points of the judge; its backward mode gives small ones.
    pub struct PairSection {
        /// best-worst: the best against the worst, the paper's; all: every two that differ by min_gap.
        select: Select = Select::BestWorst => "select", "S", Takes::OneOf(&["best-worst", "all"]);
        /// With select = "all": most pairs a prompt, those with the largest differences; 0 is no limit.
        most: usize = 0 => "most", "N", Takes::Whole(0);
        /// Most pairs of a round, drawn by their ids; 0 is no limit.
        total: usize = 0 => "total", "N", Takes::Whole(0);
        /// Smallest difference of the two scores; equal scores never make a pair.
        min_gap: f64 = 0.0 => "min_gap", "D", Takes::Number(Range::AtLeast0);
        /// Scores this near count as equal; 0 is off, [0, 0, 0.1] goes by round. The shortest of the best is chosen
        /// and the longest of the worst rejected.
        length_margin: ByRound = ByRound::Always(0.0) => "length_margin", "D", Takes::Typed;
        /// Choose only answers that the model ended itself; a cut one may be rejected.
        ended: bool = false => "ended", "", Takes::Switch;
        /// With select = "all": most that the longer answer of a pair has of the other's tokens, such as 1.5, where
        /// both ended or both were cut; 0 is off.
        length_ratio: f64 = 0.0 => "length_ratio", "R", Takes::Number(Range::AtLeast0);
        /// With length_ratio: the largest share of pairs whose rejected answer alone was cut, whatever its length. A
        /// model that is never told to end forgets to.
        cut: f64 = 0.0 => "cut", "S", Takes::Number(Range::From0To1);
        /// none, or gap: pairs weigh by the difference of their scores.
        weight: Weighting = Weighting::None => "weight", "W", Takes::OneOf(&["none", "gap"]);
        /// own, or first: from round 2 on the rejected answers are M1's (arXiv 2508.06026).
        rejected: Rejected = Rejected::Own => "rejected", "R", Takes::OneOf(&["own", "first"]);
        /// off, round or prompt: soft labels by agreement with the judge before (arXiv 2410.12735).
        agreement: Agreement = Agreement::Off => "agreement", "A", Takes::OneOf(&["off", "round", "prompt"]);
        /// Keep pairs whose log-probs against the model before agree with the scores (arXiv 2502.08922).
        implicit: bool = false => "implicit", "", Takes::Switch;
    }
}

impl Section for PairSection {
    const NAME: &'static str = "pairs";

    fn agree(&self) -> Result<()> {
        let margins = self.length_margin.all();
        demand(margins.iter().all(|m| *m >= 0.0 && m.is_finite()), "length_margin must be at least 0")?;
        demand(!margins.is_empty(), "length_margin is an empty list")?;
        demand(self.min_gap <= 5.0, "min_gap is above 5; scores are from 0 to 5, so there would be no pair")?;
        demand(
            self.select == Select::BestWorst || margins.iter().all(|m| *m == 0.0),
            "length_margin goes with select = \"best-worst\"",
        )?;
        demand(self.select == Select::All || self.most == 0, "most goes with select = \"all\"")?;
        demand(
            self.length_ratio == 0.0 || (self.select == Select::All && self.length_ratio >= 1.0),
            "length_ratio is 0, or at least 1 with select = \"all\"",
        )?;
        demand(self.cut == 0.0 || self.length_ratio > 0.0, "cut goes with length_ratio")
    }
}

impl PairSection {
    /// The rule of a round, whose number is from 1.
    pub fn rule(&self, round: u32) -> PairRule {
        let length_margin = self.length_margin.at(round);
        let PairSection { select, most, min_gap, ended, length_ratio, cut, .. } = *self;
        PairRule { select, most, min_gap, length_margin, ended, length_ratio, cut }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schedule_gives_each_round_its_margin() {
        let read = |text: &str| toml::from_str::<PairSection>(text).unwrap();
        let margins = |s: &PairSection| [1, 2, 3, 9].map(|round| s.rule(round).length_margin);
        assert_eq!(margins(&read("length_margin = [0, 0, 0.1]")), [0.0, 0.0, 0.1, 0.1]);
        assert_eq!(margins(&read("length_margin = 0.2")), [0.2; 4]);
        for (text, word) in [
            ("length_margin = []", "empty"),
            ("length_margin = [0, -1]", "at least 0"),
            ("select = \"all\"\nlength_margin = 0.1", "best-worst"),
            ("most = 2", "\"all\""),
            ("length_ratio = 1.5", "\"all\""),
            ("select = \"all\"\nlength_ratio = 0.5", "at least 1"),
            ("select = \"all\"\ncut = 0.2", "length_ratio"),
            ("min_gap = nan", "min_gap"),
            ("min_gap = 5.5", "from 0 to 5"),
        ] {
            let e = read(text).check().unwrap_err().to_string();
            assert!(e.contains("[pairs]") && e.contains(word), "{text}: {e}");
        }
        let all = "select = \"all\"\nmost = 3\nweight = \"gap\"\nrejected = \"first\"\nagreement = \"prompt\"\n\
                   implicit = true\n";
        assert_eq!(read(&toml::to_string(&read(all)).unwrap()), read(all));
    }
}
