//! How a GPU is opened.

use super::Variant;
use crate::settings::setters;

/// How a GPU is opened.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Options {
    /// Part of the adapter's name, or its index in [`super::list`]; None takes the best one.
    pub device: Option<String>,
    /// Which of the adapters of the best kind is taken where `device` names none: of n the one of number `turn` modulo
    /// n. A software adapter serves all.
    pub turn: usize,
    /// Cap on the bytes of live buffers; None leaves that to [`super::Gpu::memory`].
    pub memory: Option<u64>,
    /// Kernel texts to use; None lets the adapter's kind decide.
    pub variant: Option<Variant>,
    /// Keep bounds checks in the shaders (slower; for tests).
    pub checked: bool,
    /// Keep each tensor in a buffer of its own, between words that show who writes outside of it; what nobody wrote is
    /// NaN (for tests).
    pub guarded: bool,
    /// Ask for no optional feature and for no more than WebGPU's default limits.
    pub plain: bool,
    /// Ask for WebGPU's default limits (bindings of 128 MiB, 8 storage buffers a stage, workgroups of 256, …) and no
    /// more, whatever the adapter has; wgpu then refuses what a browser would refuse.
    pub webgpu_limits: bool,
    /// Give each row the same bits whatever else is computed beside it, in scoring, training and generation alike
    /// (slower).
    pub invariant: bool,
    /// Multiply weights by many rows on matrix units, operands rounded to f16, sums in f32; an error where the adapter
    /// has none. `invariant` leaves no product to them.
    pub matrix_units: bool,
    /// Most bytes of one buffer of a weight, where that is less than a binding holds (tests cut small models so).
    pub block: Option<u64>,
    /// Time every launch ([`super::Gpu::profile`]); slower, and an error where the adapter has no timestamps.
    pub profile: bool,
    /// Ask for timestamps where the adapter has them, so that plans are timed by its clock as well as by the host's.
    pub timestamps: bool,
}

setters! {
    impl Options {
        /// Part of the adapter's name, or its index in [`super::list`]; None takes the best one.
        device: Option<String>;
        /// Which of the adapters of the best kind is taken where `device` names none: of n the one of number `turn`
        /// modulo n. A software adapter serves all.
        turn: usize;
        /// Cap on the bytes of live buffers; None leaves that to [`super::Gpu::memory`].
        memory: Option<u64>;
        /// Kernel texts to use; None lets the adapter's kind decide.
        variant: Option<Variant>;
        /// Keep bounds checks in the shaders (slower; for tests).
        checked: bool;
        /// Keep each tensor in a buffer of its own, between words that show who writes outside of it; what nobody wrote
        /// is NaN (for tests).
        guarded: bool;
        /// Ask for no optional feature and for no more than WebGPU's default limits.
        plain: bool;
        /// Ask for WebGPU's default limits (bindings of 128 MiB, 8 storage buffers a stage, workgroups of 256, …) and
        /// no more, whatever the adapter has; wgpu then refuses what a browser would refuse.
        webgpu_limits: bool;
        /// Give each row the same bits whatever else is computed beside it, in scoring, training and generation alike
        /// (slower).
        invariant: bool;
        /// Multiply weights by many rows on matrix units, operands rounded to f16, sums in f32; an error where the
        /// adapter has none. `invariant` leaves no product to them.
        matrix_units: bool;
        /// Most bytes of one buffer of a weight, where that is less than a binding holds (tests cut small models so).
        block: Option<u64>;
        /// Time every launch ([`super::Gpu::profile`]); slower, and an error where the adapter has no timestamps.
        profile: bool;
        /// Ask for timestamps where the adapter has them, so that plans are timed by its clock as well as by the
        /// host's.
        timestamps: bool;
    }
}
