//! The objective of a preference training: losses of the list with weights, and the options that apply to all of them.

use super::losses::{self, Family, Loss, Of, log_sigmoid, sigmoid};
use super::pair::{Labelled, Pair, unpaired};
use crate::settings::{self, Range, Takes, settings};
use crate::{Error, Result};

/// What the losses see of one pair. Sums are over the tokens of an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Seen {
    /// Score of the chosen answer: the log-ratio log π − log π_ref, or f′(π / π_ref) of another divergence; without a
    /// reference, log π.
    pub c: f64,
    /// Score of the rejected answer: the log-ratio log π − log π_ref, or f′(π / π_ref) of another divergence; without a
    /// reference, log π.
    pub r: f64,
    /// Log-probs (chosen, rejected) under the policy, weighted by LD-DPO's α.
    pub policy: [f64; 2],
    /// Log-probs (chosen, rejected) under the reference, weighted by LD-DPO's α.
    pub reference: [f64; 2],
    /// How many tokens the chosen answer has.
    pub nc: f64,
    /// How many tokens the rejected answer has.
    pub nr: f64,
    /// Log-prob of the chosen answer, without weights.
    pub chosen_sum: f64,
    /// Log-prob of the prompt's tokens after its first one.
    pub prompt_sum: f64,
    /// Number of pairs in the step divided by the number of its chosen tokens, which turns a mean over pairs into one
    /// over tokens.
    pub chosen_share: f64,
    /// Number of pairs in the step divided by the number of its tokens in chosen answers and in prompts (but each first
    /// one).
    pub whole_share: f64,
    /// WPO's weight of the pair; 1 if WPO is not used.
    pub weight: f64,
    /// The label of a single answer: whether it is wanted.
    pub desirable: bool,
    /// Weight of the pair in the step's mean.
    pub pair_weight: f64,
    /// Probability that the rejected answer is the better one.
    pub flip: f64,
}

impl Seen {
    /// The pair the other way round, for those parts of the losses that compare the answers. What is learnt of the
    /// chosen answer alone stays.
    fn turned(&self) -> Self {
        let swap = |[a, b]: [f64; 2]| [b, a];
        Self {
            c: self.r,
            r: self.c,
            policy: swap(self.policy),
            reference: swap(self.reference),
            nc: self.nr,
            nr: self.nc,
            ..*self
        }
    }
}

/// The value of a loss with its derivatives.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Slope {
    /// The value of the loss.
    pub loss: f64,
    /// Derivative by the chosen answer's weighted log-prob.
    pub dc: f64,
    /// Derivative by the rejected answer's weighted log-prob.
    pub dr: f64,
    /// Derivative by the chosen answer's plain log-prob.
    pub dsum: f64,
    /// Derivative by the prompt's log-prob.
    pub dprompt: f64,
}

impl Slope {
    /// The loss of a pair under the pair's soft label.
    fn soft(s: &Seen, of: impl Fn(&Seen) -> Slope) -> Self {
        let here = of(s);
        if s.flip == 0.0 {
            return here;
        }
        let (there, p) = (of(&s.turned()), s.flip);
        let mix = |a: f64, b: f64| (1.0 - p) * a + p * b;
        Self {
            loss: mix(here.loss, there.loss),
            dc: mix(here.dc, there.dr),
            dr: mix(here.dr, there.dc),
            dsum: mix(here.dsum, there.dsum),
            dprompt: mix(here.dprompt, there.dprompt),
        }
    }

    pub(super) fn pair(loss: f64, dc: f64, dr: f64) -> Self {
        Self { loss, dc, dr, ..Self::default() }
    }

    /// Adds `weight` times `other`. Value and first two derivatives of `other` are by scores c and r, whose slopes are
    /// `by`.
    fn add(&mut self, other: &Slope, weight: f64, by: [f64; 2]) {
        self.loss += weight * other.loss;
        self.dc += weight * other.dc * by[0];
        self.dr += weight * other.dr * by[1];
        self.dsum += weight * other.dsum;
        self.dprompt += weight * other.dprompt;
    }
}

/// The divergence from the reference in f-DPO (arXiv 2309.16240), by its f: a score is f′(t) at t = π / π_ref.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Divergence {
    /// The reverse KL, where f′(t) = log t.
    #[default]
    ReverseKl,
    /// The forward KL, where f′(t) = 1 − 1/t.
    ForwardKl,
    /// The Jensen-Shannon divergence, where f′(t) = log 2t / (1 + t).
    JsDivergence,
    /// The α-divergence, where f′(t) = (t^(α − 1) − 1) / (α − 1).
    AlphaDivergence,
}

impl Divergence {
    /// The divergences with TRL's names.
    pub const NAMES: [(&'static str, Divergence); 4] = [
        ("reverse_kl", Divergence::ReverseKl),
        ("forward_kl", Divergence::ForwardKl),
        ("js_divergence", Divergence::JsDivergence),
        ("alpha_divergence", Divergence::AlphaDivergence),
    ];

    /// (f′(t), its slope by log t) at log t = x.
    fn score(self, x: f64, alpha: f64) -> (f64, f64) {
        match self {
            Divergence::ForwardKl => (1.0 - (-x).exp(), (-x).exp()),
            Divergence::JsDivergence => (std::f64::consts::LN_2 + log_sigmoid(x), sigmoid(-x)),
            Divergence::AlphaDivergence if (alpha - 1.0).abs() >= 1e-6 => {
                // TRL bounds the exponent at 80.
                let y = (alpha - 1.0) * x;
                let e = y.min(80.0).exp();
                ((e - 1.0) / (alpha - 1.0), if y > 80.0 { 0.0 } else { e })
            }
            Divergence::ReverseKl | Divergence::AlphaDivergence => (x, 1.0),
        }
    }
}

/// Reads and writes the losses as `--loss` and `loss` give them.
mod as_text {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(losses: &[(String, f32)], to: S) -> Result<S::Ok, S::Error> {
        let one = |(name, weight): &(String, f32)| match *weight {
            1.0 => name.clone(),
            weight => format!("{name}:{weight}"),
        };
        to.serialize_str(&losses.iter().map(one).collect::<Vec<_>>().join(","))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<(String, f32)>, D::Error> {
        super::parse(&String::deserialize(from)?).map_err(D::Error::custom)
    }
}

settings! {
    /// Losses with weights, and their options.
    pub struct Objective {
        /// Losses with their weights, such as sigmoid or sigmoid:0.8,sft:0.2.
        #[serde(with = "as_text")]
        losses: Vec<(String, f32)> = vec![("sigmoid".into(), 1.0)] => "loss", "L[:WEIGHT],…",
            Takes::Read { read: |text| parse(text).map(|_| ()), listed: losses::listed };
        /// Strength of the pull to the reference (β).
        beta: f32 = 0.1 => "beta", "BETA", Takes::Number(Range::Above0);
        /// Share of labels taken as wrong, for the losses that know it.
        label_smoothing: f32 = 0.0 => "label_smoothing", "S", Takes::Number(Range::From0To1);
        /// Weight of the chosen answers' negative log-likelihood beside the loss. It is a mean over each answer's
        /// tokens, then over the pairs (RPO, arXiv 2404.19733); the loss `sft` is the mean over all tokens of a step,
        /// as in TRL.
        nll: f32 = 0.0 => "nll", "A", Takes::Number(Range::AtLeast0);
        /// What takes the place of the reverse KL, for losses of the margin alone.
        f_divergence: Divergence = Divergence::ReverseKl => "f_divergence", "F",
            Takes::OneOf(&["reverse_kl", "forward_kl", "js_divergence", "alpha_divergence"]);
        /// The coefficient α of alpha_divergence.
        f_alpha: f32 = 0.5 => "f_alpha", "A", Takes::Number(Range::Finite);
        /// Weigh each pair by how likely the model would write it (WPO, arXiv 2406.11827).
        wpo: bool = false => "wpo", "", Takes::Switch;
        /// Weight of log-probs behind the shorter answer's length (LD-DPO, arXiv 2409.06411); 1 is off.
        ld_alpha: f32 = 1.0 => "ld_alpha", "A", Takes::Number(Range::From0To1);
        /// SimPO's target margin γ.
        simpo_gamma: f32 = 0.5 => "simpo_gamma", "G", Takes::Number(Range::Finite);
        /// Weight of desirable answers (kto, apo_zero_unpaired).
        desirable_weight: f32 = 1.0 => "desirable_weight", "W", Takes::Number(Range::AtLeast0);
        /// Weight of undesirable answers (kto, apo_zero_unpaired).
        undesirable_weight: f32 = 1.0 => "undesirable_weight", "W", Takes::Number(Range::AtLeast0);
    }
}

/// Reads `NAME[:WEIGHT],…`.
///
/// # Errors
/// A name is unknown or repeated, or a weight is not a finite number of at least 0.
pub fn parse(text: &str) -> Result<Vec<(String, f32)>> {
    let part = |part: &str| -> Result<(String, f32)> {
        let (name, weight) = part.split_once(':').unwrap_or((part, "1"));
        losses::find(name)?;
        Ok((name.to_owned(), weight.parse().map_err(|_| wrong_weight(part))?))
    };
    let all = text.split(',').map(|p| part(p.trim())).collect::<Result<Vec<_>>>()?;
    check(&all)?;
    Ok(all)
}

/// The row of each loss in a list.
fn check(all: &[(String, f32)]) -> Result<Vec<&'static Loss>> {
    let text = |(name, weight): &(String, f32)| format!("{name}:{weight}");
    let mut rows: Vec<&Loss> = Vec::new();
    for loss @ (name, weight) in all {
        let row = losses::find(name)?;
        if !(weight.is_finite() && *weight >= 0.0) {
            return Err(wrong_weight(&text(loss)));
        }
        if rows.iter().any(|r| r.name == row.name) {
            let list = all.iter().map(text).collect::<Vec<_>>().join(",");
            return Err(Error::Input(format!("the loss '{name}' stands twice in '{list}'; add up its weights")));
        }
        rows.push(row);
    }
    Ok(rows)
}

fn wrong_weight(loss: &str) -> Error {
    Error::Input(format!("loss '{loss}': the weight must be a number of at least 0"))
}

impl Objective {
    /// The rows of the objective's losses.
    ///
    /// # Errors
    /// A loss is unknown or repeated, or an option is out of range or not defined for a loss.
    pub fn rows(&self) -> Result<Vec<&'static Loss>> {
        if self.losses.is_empty() {
            return Err(Error::Input("no loss is given".into()));
        }
        settings::check(self)?;
        let rows = check(&self.losses)?;
        let all = |f: fn(Family) -> bool| rows.iter().all(|l| f(l.family));
        let single = rows.iter().any(|l| l.family.unpaired());
        let smoothed = |l: &&&Loss| l.needs.smoothing_below.is_some_and(|below| self.label_smoothing >= below);
        if let Some(Loss { name, needs, .. }) = rows.iter().find(smoothed) {
            let below = needs.smoothing_below.unwrap_or(1.0);
            let what = format!("label_smoothing is {}; {name} needs it below {below}", self.label_smoothing);
            return Err(Error::Input(what));
        }
        if self.f_divergence != Divergence::ReverseKl && !all(Family::takes_divergence) {
            let fine = losses::names(|l| l.family.takes_divergence());
            let what =
                format!("f-divergences other than reverse_kl are defined for losses of the margin alone: {fine}");
            return Err(Error::Input(what));
        }
        if self.wpo && !rows.iter().all(|l| l.takes_wpo()) {
            return Err(Error::Input(format!("WPO goes with these losses alone: {}", losses::names(Loss::takes_wpo))));
        }
        let checks = [
            (self.ld_alpha == 1.0 || all(Family::takes_ld), "ld_alpha goes with the losses on pairs with a reference"),
            (!single || all(Family::unpaired), "losses on pairs and on single answers cannot be mixed"),
            (!single || self.nll == 0.0, "an NLL term needs chosen answers, so it cannot go with single answers"),
        ];
        match checks.iter().find(|(holds, _)| !holds) {
            Some((_, what)) => Err(Error::Input((*what).into())),
            None => Ok(rows),
        }
    }

    /// Single answers in the form that these losses take (see [`unpaired`]). If none of the losses reads the mismatched
    /// answers, the answer itself takes their place, so that it is computed once. `batch` is the number of records in a
    /// step.
    ///
    /// # Errors
    /// As [`Objective::rows`].
    pub fn single_answers(&self, records: &[Labelled], batch: usize) -> Result<Vec<Pair>> {
        let mut pairs = unpaired(records, batch);
        if !self.rows()?.iter().any(|l| l.needs.mismatched) {
            pairs.iter_mut().for_each(|p| p.rejected.clone_from(&p.chosen));
        }
        Ok(pairs)
    }

    /// Whether the losses are on single answers with labels.
    ///
    /// # Errors
    /// As [`Objective::rows`].
    pub fn unpaired(&self) -> Result<bool> {
        Ok(self.rows()?.iter().any(|l| l.family.unpaired()))
    }

    /// Whether every loss takes each pair by itself, so that a pair may have a weight and a soft label of its own.
    ///
    /// # Errors
    /// As [`Objective::rows`].
    pub fn takes_pairs_apart(&self) -> Result<bool> {
        Ok(self.rows()?.iter().all(|l| l.takes_pairs_apart()))
    }

    /// The loss and derivatives of each pair of a step; the objective is their mean. `seen` holds the log-probs; its c
    /// and r are set here.
    ///
    /// # Errors
    /// As [`Objective::rows`].
    pub fn evaluate(&self, seen: &mut [Seen]) -> Result<Vec<Slope>> {
        Ok(self.evaluate_rows(&self.rows()?, seen))
    }

    pub(super) fn evaluate_rows(&self, rows: &[&Loss], seen: &mut [Seen]) -> Vec<Slope> {
        let mut total = vec![Slope::default(); seen.len()];
        for (row, (_, weight)) in rows.iter().zip(&self.losses) {
            let mut by = vec![[1.0; 2]; seen.len()];
            for (s, by) in seen.iter_mut().zip(&mut by) {
                let ratio = |side: usize| match row.family {
                    Family::Free => s.policy[side],
                    _ => s.policy[side] - s.reference[side],
                };
                [s.c, s.r] = [ratio(0), ratio(1)];
                if row.family == Family::Margin {
                    let alpha = f64::from(self.f_alpha);
                    ((s.c, by[0]), (s.r, by[1])) =
                        (self.f_divergence.score(s.c, alpha), self.f_divergence.score(s.r, alpha));
                }
            }
            let slopes = match row.of {
                Of::Pair(f) => seen.iter().map(|s| Slope::soft(s, |s| f(s, self))).collect(),
                Of::Step(f) => f(seen, self),
            };
            for (((total, slope), by), s) in total.iter_mut().zip(&slopes).zip(by).zip(&*seen) {
                total.add(slope, f64::from(*weight) * s.weight, by);
            }
        }
        for (total, s) in total.iter_mut().zip(seen) {
            let d = -f64::from(self.nll) / s.nc;
            total.add(&Slope { loss: d * s.chosen_sum, dsum: d, ..Slope::default() }, 1.0, [1.0; 2]);
            if s.pair_weight != 1.0 {
                let plain = std::mem::take(total);
                total.add(&plain, s.pair_weight, [1.0; 2]);
            }
        }
        total
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::losses::LOSSES;

    fn of(name: &str) -> Objective {
        Objective { losses: vec![(name.into(), 0.7)], beta: 0.3, label_smoothing: 0.1, ..Objective::default() }
    }

    fn step() -> Vec<Seen> {
        [(-3.1, -8.0, -3.5, -7.1), (-2.0, -4.0, -4.5, -4.2), (-9.0, -2.0, -6.0, -5.0)]
            .iter()
            .enumerate()
            .map(|(i, (a, b, c, d))| Seen {
                policy: [*a, *b],
                reference: [*c, *d],
                nc: 4.0 + i as f64,
                nr: 7.0,
                chosen_sum: *a,
                prompt_sum: -3.0,
                chosen_share: 0.2,
                whole_share: 0.1,
                weight: 1.0,
                pair_weight: 1.0,
                desirable: i != 1,
                ..Seen::default()
            })
            .collect()
    }

    fn slopes_hold(o: &Objective, what: &str) {
        slopes_hold_at(o, step(), what);
    }

    fn slopes_hold_at(o: &Objective, seen: Vec<Seen>, what: &str) {
        let rows = o.rows().unwrap();
        let total = |seen: &[Seen]| o.evaluate_rows(&rows, &mut seen.to_vec()).iter().map(|s| s.loss).sum::<f64>();
        let h = 1e-5;
        let all = o.evaluate_rows(&rows, &mut seen.clone());
        // KTO holds its KL estimate fixed.
        let sides = if o.unpaired().unwrap() { 1 } else { 2 };
        for i in 0..seen.len() {
            for side in 0..sides {
                let moved = |by: f64| {
                    let mut seen = seen.clone();
                    seen[i].policy[side] += by;
                    if side == 0 {
                        seen[i].chosen_sum += by;
                    }
                    total(&seen)
                };
                let slope = (moved(h) - moved(-h)) / (2.0 * h);
                let want = [all[i].dc + all[i].dsum, all[i].dr][side];
                assert!((slope - want).abs() < 1e-6 * (1.0 + want.abs()), "{what}: pair {i} {side}: {want}, {slope}");
            }
        }
    }

    #[test]
    fn mismatched_answers_are_kept_for_losses_that_read_them() {
        let record = |id| Labelled { prompt: vec![1], completion: vec![id], desirable: true };
        for (name, rejected) in [("kto", [3, 2]), ("apo_zero_unpaired", [2, 3])] {
            let pairs = of(name).single_answers(&[record(2), record(3)], 2).unwrap();
            assert_eq!([pairs[0].rejected[0], pairs[1].rejected[0]], rejected, "{name}");
        }
    }

    #[test]
    fn derivatives_are_slopes() {
        for loss in LOSSES {
            slopes_hold(&of(loss.name), loss.name);
            if loss.family == Family::Margin {
                for (name, f_divergence) in Divergence::NAMES {
                    slopes_hold(&Objective { f_divergence, ..of(loss.name) }, name);
                }
            }
        }
        // Soft labels and weights of the pairs, wherever pairs stand for themselves.
        let soft = |seen: Vec<Seen>| -> Vec<Seen> {
            let of = |(i, s): (usize, Seen)| Seen { flip: 0.3 * i as f64, pair_weight: 0.5 + i as f64, ..s };
            seen.into_iter().enumerate().map(of).collect()
        };
        for loss in LOSSES.iter().filter(|l| matches!(l.of, Of::Pair(_)) && l.family != Family::Unpaired) {
            slopes_hold_at(&Objective { nll: 0.4, ..of(loss.name) }, soft(step()), loss.name);
        }
        slopes_hold(&Objective { nll: 0.4, losses: parse("aot:2,sft:0.3,ipo").unwrap(), ..of("sigmoid") }, "several");
    }

    #[test]
    fn a_soft_label_mixes_both_ways_round() {
        let o = of("sigmoid");
        let rows = o.rows().unwrap();
        let at = |s: Seen| o.evaluate_rows(&rows, &mut [s])[0];
        let hard = step()[0];
        let (here, there) = (at(hard), at(hard.turned()));
        let mixed = at(Seen { flip: 0.25, pair_weight: 2.0, ..hard });
        assert!((mixed.loss - 2.0 * (0.75 * here.loss + 0.25 * there.loss)).abs() < 1e-12);
        assert!((mixed.dc - 2.0 * (0.75 * here.dc + 0.25 * there.dr)).abs() < 1e-12);
        // cDPO's smoothing is this very mix.
        let plain = Objective { label_smoothing: 0.0, ..of("sigmoid") };
        let soft = plain.evaluate_rows(&rows, &mut [Seen { flip: 0.1f32.into(), ..hard }])[0];
        assert!((soft.loss - here.loss).abs() < 1e-12 && (soft.dr - here.dr).abs() < 1e-12);
    }

    #[test]
    fn only_losses_on_single_pairs_take_them_apart() {
        for (name, apart) in
            [("sigmoid", true), ("sft", true), ("aot", false), ("kto", false), ("apo_zero_unpaired", false)]
        {
            assert_eq!(of(name).takes_pairs_apart().unwrap(), apart, "{name}");
        }
    }

    #[test]
    fn far_log_probs_give_numbers() {
        for loss in LOSSES {
            let o = of(loss.name);
            let rows = o.rows().unwrap();
            for far in [[-1e5, -1e-9], [-1e-9, -1e5], [-0.0, -0.0], [-1e-30, -1e5]] {
                let mut seen: Vec<Seen> =
                    step().into_iter().map(|s| Seen { policy: far, chosen_sum: far[0], ..s }).collect();
                // DiscoPOP's exponential and forward KL grow without bound in the losing direction only.
                for s in o.evaluate_rows(&rows, &mut seen) {
                    let all = [s.loss, s.dc, s.dr, s.dsum, s.dprompt];
                    assert!(all.iter().all(|x| x.is_finite()), "{} at {far:?}: {s:?}", loss.name);
                }
            }
        }
    }

    #[test]
    fn wrong_objectives_are_named() {
        for (text, word) in
            [("sigmoid,sigmoid:2", "twice"), ("dpo", "sigmoid_norm"), ("ipo:x", "weight"), ("ipo:-1", "weight")]
        {
            assert!(parse(text).unwrap_err().to_string().contains(word), "{text}");
        }
        for (o, word) in [
            (Objective { wpo: true, ..of("aot") }, "WPO"),
            (Objective { wpo: true, ..of("sft") }, "WPO"),
            (Objective { ld_alpha: 0.5, ..of("simpo") }, "ld_alpha"),
            (Objective { f_divergence: Divergence::ForwardKl, ..of("apo_zero") }, "f-divergence"),
            (Objective { label_smoothing: 0.5, ..of("robust") }, "0.5"),
            (Objective { losses: parse("kto,sigmoid").unwrap(), ..of("kto") }, "mixed"),
            (Objective { nll: 1.0, ..of("kto") }, "NLL"),
            (Objective { beta: 0.0, ..of("sigmoid") }, "beta"),
            (Objective { losses: vec![("ipo".into(), f32::NAN)], ..of("ipo") }, "'ipo:NaN'"),
            (Objective { losses: vec![("ipo".into(), 1.0), ("ipo".into(), 2.0)], ..of("ipo") }, "'ipo:1,ipo:2'"),
        ] {
            assert!(o.rows().err().unwrap().to_string().contains(word), "{word}");
        }
    }
}
