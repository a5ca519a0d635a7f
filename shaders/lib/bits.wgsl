// How the bits of a group of values along K lie, a row of words after another: LOWER of each value, 4 or 8, and of 5
// and 6 bits a last row with what is above the lower 4.
const ABOVE = BITS % 4u;
const LOWER = BITS - ABOVE;
const LOWER_WORDS = LOWER * GROUP / 32u;
const GROUP_WORDS = BITS * GROUP / 32u;
// The bits of a value in four columns, each given as a word whose lowest bits they are.
fn bits_of(lower: vec4u, above: vec4u) -> vec4u {
    if ABOVE == 0u { return lower & vec4u((1u << LOWER) - 1u); }
    return (lower & vec4u(15u)) | ((above & vec4u((1u << ABOVE) - 1u)) << vec4u(4u));
}
