// The KV arena is paged by path position: a page holds PAGE positions of one sequence's path.
const PAGE: u32 = 32u;
// The row of one key head in a page; its positions lie one behind the other, as attention reads them.
fn row_in(page: u32, kv_heads: u32, kv: u32, position: u32) -> u32 {
    return (page * kv_heads + kv) * PAGE + position % PAGE;
}
