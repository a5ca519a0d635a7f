// How the bits of a group of values along K lie, a row of words after another: LOWER of each value, 4 or 8, and of 5
// and 6 bits a last row with what is above the lower 4.
const ABOVE = BITS % 4u;
const LOWER = BITS - ABOVE;
const LOWER_WORDS = LOWER * GROUP / 32u;
const GROUP_WORDS = BITS * GROUP / 32u;
const PER_WORD = 32u / LOWER;
// The row of words that has the lower bits of the k-th value, and by how much they are shifted there.
fn lower_row(k: u32) -> u32 {
    // Where nothing lies above, both say the same, and the second in fewer instructions.
    return select(k / GROUP * GROUP_WORDS + k % GROUP / PER_WORD, k / PER_WORD, ABOVE == 0u);
}
fn lower_shift(k: u32) -> u32 {
    return k % PER_WORD * LOWER;
}
// The row that has what lies above in a group.
fn above_row(group: u32) -> u32 {
    return group * GROUP_WORDS + LOWER_WORDS;
}
// The bits of a value in four columns, each given as a word whose lowest bits they are.
fn bits_of(lower: vec4u, above: vec4u) -> vec4u {
    if ABOVE == 0u { return lower & vec4u((1u << LOWER) - 1u); }
    return (lower & vec4u(15u)) | ((above & vec4u((1u << ABOVE) - 1u)) << vec4u(4u));
}
