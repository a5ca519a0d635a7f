//! What is drawn of a training's steps: one list for the page and the terminal.

use super::Training;
use std::ops::RangeInclusive;

/// A plot of one or two quantities over the steps.
pub struct Curve {
    /// The heading of the plot.
    pub title: &'static str,
    /// What the plot shows, in a sentence.
    pub about: &'static str,
    /// Keys of a step's record, each with its name in the plot.
    pub series: &'static [(&'static str, &'static str)],
    /// The range of the axis, where the quantity has natural ends.
    pub range: Option<RangeInclusive<f64>>,
}

/// All curves, in the order in which they are shown. A curve for which no step has a value is left out.
pub const CURVES: [Curve; 9] = [
    Curve {
        title: "Loss",
        about: "The objective of each step before its update.",
        series: &[("loss", "loss")],
        range: None,
    },
    Curve {
        title: "Rewards",
        about: "β times the log-prob gained over the reference, mean over a step's answers.",
        series: &[("rewards/chosen", "chosen"), ("rewards/rejected", "rejected")],
        range: None,
    },
    Curve {
        title: "Margins",
        about: "Reward of the chosen answer minus that of the rejected one, mean over a step's pairs.",
        series: &[("rewards/margins", "margin")],
        range: None,
    },
    Curve {
        title: "Accuracy",
        about: "Share of a step's pairs whose chosen answer has the larger reward.",
        series: &[("rewards/accuracies", "accuracy")],
        range: Some(0.0..=1.0),
    },
    Curve {
        title: "Validation",
        about: "The judge's mean score of the answers to held-out prompts, at the last validation.",
        series: &[(VALIDATION, "score")],
        range: None,
    },
    Curve {
        title: "Log-probs",
        about: "Summed log-prob of an answer under the model in training, mean over a step's answers.",
        series: &[("logps/chosen", "chosen"), ("logps/rejected", "rejected")],
        range: None,
    },
    Curve {
        title: "Routers' auxiliary loss",
        about: "How unevenly tokens are spread over experts, before the loss's weight.",
        series: &[("aux_loss", "aux")],
        range: None,
    },
    Curve {
        title: "Gradient norm",
        about: "Norm of the gradient of all weights before clipping.",
        series: &[("grad_norm", "norm")],
        range: None,
    },
    Curve {
        title: "Learning rate",
        about: "The rate that each step used.",
        series: &[("learning_rate", "rate")],
        range: None,
    },
];

/// The key under which a step holds the score of the validation after it.
pub const VALIDATION: &str = "validation/score";

/// The values of one key over a training's steps; `None` at a step that has no value that can be drawn. The score of a
/// validation holds until the next one.
pub fn values(training: &Training, key: &str) -> Vec<Option<f64>> {
    // Differences between larger values than these would overflow.
    let drawn = |v: &f64| v.abs() < 1e300;
    let mut last = None;
    let value = |step: &super::StepNumbers| {
        let own = step.values.get(key).copied().filter(drawn);
        if key != VALIDATION {
            return own;
        }
        last = own.or(last);
        last
    };
    training.steps.iter().map(value).collect()
}

/// The name of a training: `round 1`, or that of its folder.
pub fn name(training: &Training) -> String {
    training.round.map_or_else(|| training.name.clone(), |n| format!("round {n}"))
}
