//! `[controls]`: models that are trained beside M2 to compare with it.

use crate::settings::{Section, Takes, settings};

settings! {
    /// Models beside M2, of M1's same answers, which show what judging and preferences bring.
    pub struct ControlSection {
        /// Train one on as many pairs under random scores.
        random: bool = false => "random", "", Takes::Switch;
        /// Train one on the best answers alone, supervised.
        sft_best: bool = false => "sft_best", "", Takes::Switch;
    }
}

impl Section for ControlSection {
    const NAME: &'static str = "controls";
}
