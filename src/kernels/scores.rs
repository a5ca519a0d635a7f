//! What makes a score of the product of a query and a key: a factor, and in some models a soft cap (Gemma 2, arXiv
//! 2408.00118), which logits may have too.

use super::heads::Heads;
use super::way::Constant;

/// The factor and the soft cap of attention's scores.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Scores {
    /// Factor on the products, head_dim^-0.5 if None.
    pub scale: Option<f32>,
    /// The scores' soft cap, if they have one.
    pub cap: Option<f32>,
}

/// For the lists of pipelines: heads without a cap, and some of them with one.
pub(super) fn examples(heads: Heads) -> impl Iterator<Item = Option<f32>> {
    let capped = [12, 64, 256].contains(&heads.head_dim);
    [None].into_iter().chain(capped.then_some(Some(1.0)))
}

impl Scores {
    /// Factor on the products of heads of this width.
    pub(super) fn factor(&self, heads: Heads) -> f32 {
        self.scale.unwrap_or(1.0 / (heads.head_dim as f32).sqrt())
    }

    /// The score of a product, for the twins.
    pub(super) fn of(&self, product: f64, heads: Heads) -> f64 {
        capped(product * self.exact_factor(heads), self.cap)
    }

    /// The slope of [`Scores::of`] where it is `score`.
    pub(super) fn slope(&self, score: f64, heads: Heads) -> f64 {
        self.exact_factor(heads) * slope(score, self.cap)
    }

    fn exact_factor(&self, heads: Heads) -> f64 {
        self.scale.map_or(1.0 / (heads.head_dim as f64).sqrt(), f64::from)
    }
}

/// The name of the constant by which the shaders know that there is a cap.
pub(super) const NAME: &str = "CAP";

/// That constant; where there is no cap there is none.
pub(super) fn constant(cap: Option<f32>) -> Option<Constant> {
    cap.map(|_| (NAME, 1))
}

/// What the parameter `cap` is; a text without the constant does not read it.
pub(super) fn parameter(cap: Option<f32>) -> f32 {
    cap.unwrap_or(1.0)
}

/// cap · tanh(x / cap), or x.
pub(super) fn capped(x: f64, cap: Option<f32>) -> f64 {
    cap.map_or(x, |cap| f64::from(cap) * (x / f64::from(cap)).tanh())
}

/// The slope of [`capped`] where it is `y`.
pub(super) fn slope(y: f64, cap: Option<f32>) -> f64 {
    cap.map_or(1.0, |cap| 1.0 - (y / f64::from(cap)).powi(2))
}
