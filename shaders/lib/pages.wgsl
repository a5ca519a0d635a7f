// The KV arena is paged by path position: a page holds PAGE positions of one sequence's path.
const PAGE: u32 = 32u;
