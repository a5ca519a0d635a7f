//! Number formats as flags name them.

use clap::builder::{PossibleValuesParser, TypedValueParser};
use selfreward::arch::Dtype;

/// The formats in which a model's matrices may be kept on the device.
pub(crate) const ON_DEVICE: [Dtype; 3] = [Dtype::F32, Dtype::BF16, Dtype::F16];

/// A `value_parser` for the names of these formats, written in small letters.
pub(crate) fn one_of(dtypes: impl IntoIterator<Item = Dtype>) -> impl TypedValueParser<Value = Dtype> {
    let names = dtypes.into_iter().map(|dtype| dtype.name().to_lowercase());
    PossibleValuesParser::new(names).try_map(|given| Dtype::named(&given).ok_or("no number format"))
}
