// A lane's share of the work on chunks of rows: of one chunk and head some rows, four at a time, and a vec4 of columns.
struct Item {
    chunk: u32,
    tile: u32,
    h: u32,
    col: u32,
    at: vec4u,  // first row | rows | the chunk before | the first of those behind
}
fn items(tiles: u32, cols: u32) -> u32 {
    return p.count * tiles * p.hv * cols;
}
fn item_of(i: u32, tiles: u32, cols: u32) -> Item {
    let part = i / cols / p.hv;
    let chunk = p.first + part / tiles;
    return Item(chunk, part % tiles, i / cols % p.hv, i % cols, chunks[2u * chunk]);
}
// Row r of a tile, or the chunk's last where that is before it.
fn row_of(own: vec4u, tile: u32, r: u32) -> u32 {
    return own.x + min(4u * tile + r, own.y - 1u);
}
// Whether the chunk has no row of the tile.
fn is_behind(it: Item) -> bool {
    return 4u * it.tile >= it.at.y;
}
// Where a head's state lies in a list of states.
fn state_of(chunk: u32, h: u32) -> u32 {
    return (chunk * p.hv + h) * 4u * p.k4 * p.v4;
}
