//! The router of a mixture of experts: which experts each row goes to, and the rows sorted by expert (arXiv 1701.06538;
//! sorted groups without capacities: arXiv 2211.15841).

use super::case::{Case, Inputs, Kernel};
use super::sizes::{bytes, lanes, several, stream};
use super::way::{Constant, Traits, Way};
use crate::gpu::Value::Size;
use crate::gpu::{Cost, Launch, Param, Recorder, Source, Tensor, Variant};
use crate::{Error, Result};

static SOURCE: Source = Source {
    name: "router",
    soft: include_str!("../../shaders/router.wgsl"),
    tile: include_str!("../../shaders/router.wgsl"),
    libs: &["grid"],
    tile_size: 64,
};

/// The kernel's row in [`super::ALL`].
pub(crate) const KERNEL: Kernel = Kernel {
    source: || &SOURCE,
    about: "experts of each row, rows sorted by expert, and back",
    ways,
    ordered: &[Variant::Tile],
    cases,
};

/// Most experts that a row goes to.
pub(crate) const MOST_CHOSEN: usize = 16;

/// Rows of a tile whose places are multiplied in blocks on a GPU.
pub(crate) const BLOCK: usize = 32;

/// How a router chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Routing {
    /// E, the number of experts.
    pub(crate) experts: usize,
    /// How many of them a row goes to.
    pub(crate) chosen: usize,
    /// Whether a chosen expert's weight is its probability among all experts, in place of among those chosen.
    pub(crate) all: bool,
}

/// The rows of a step sorted by expert. What experts work on are places: of each row as many as it has experts, those
/// of an expert together, from a multiple of [`Routes::tile`] on.
pub(crate) struct Routes {
    routing: Routing,
    /// T, the number of rows.
    rows: usize,
    /// Neighbouring places that have one expert.
    pub(super) tile: usize,
    /// How many tiles there may be.
    pub(super) tiles: usize,
    chosen: Tensor,
    weight: Tensor,
    /// Of each row its places, `[T, chosen]`.
    places: Tensor,
    /// Of each tile its expert, `[S / tile]`.
    pub(super) expert: Tensor,
    /// Of each place its row times `chosen`, and which of that row's experts it is, `[S]`.
    pub(super) row: Tensor,
    /// Of each expert its first place and its rows, `[E, 2]` in one row.
    pub(super) ranges: Tensor,
}

impl Routes {
    /// S, the number of places, those without a row included.
    pub(crate) fn places(&self) -> usize {
        self.tiles * self.tile
    }

    /// How many places have a row.
    pub(super) fn taken(&self) -> usize {
        self.rows * self.routing.chosen
    }

    /// E, the number of experts.
    pub(super) fn experts(&self) -> usize {
        self.routing.experts
    }

    /// How many experts a row goes to, as the shaders know it.
    pub(super) fn constant(&self) -> Constant {
        ("CHOSEN", self.routing.chosen as u32)
    }

    /// Of each row its experts, the one with the largest logit first, `[T, chosen]`.
    pub(super) fn chosen(&self) -> &Tensor {
        &self.chosen
    }

    /// Refuses logits other than `[T, E]`.
    pub(super) fn expect_logits(&self, logits: &Tensor) -> Result<()> {
        logits.expect_shape("the router's logits", self.rows, self.experts())
    }

    fn params(&self, ld: usize, width: usize) -> [Param<'static>; 5] {
        [
            ("rows", Size(self.rows)),
            ("experts", Size(self.experts())),
            ("ld", Size(ld)),
            ("tiles", Size(self.tiles)),
            ("d4", Size(width / 4)),
        ]
    }

    fn expect(&self, what: &str, x: &Tensor, y: &Tensor) -> Result<()> {
        if x.rows() == self.places() && y.rows() == self.rows && x.ld() == y.ld() {
            return Ok(());
        }
        let sizes = format!("{} rows of {} places", self.rows, self.places());
        Err(Error::Bug(format!("{what}: {:?} and {:?} do not go with {sizes}", x.shape(), y.shape())))
    }
}

/// Rows of a tile where `taken` places lie with so many experts. A tile that is not full computes for nothing, and one
/// of few rows reads its expert's matrix for few. What is trained takes the forms that have a backward pass.
fn tile_of(traits: &Traits, taken: usize, experts: usize, trains: bool) -> usize {
    let mean = (taken / experts.max(1)).max(1).next_power_of_two();
    match traits.variant {
        Variant::Soft => mean.min(8),
        Variant::Tile if traits.invariant || trains || mean > 8 => BLOCK,
        Variant::Tile => mean,
    }
}

fn constants(chosen: usize, tile: usize) -> Vec<Constant> {
    vec![("CHOSEN", chosen as u32), ("MR", tile as u32)]
}

fn ways(traits: &Traits) -> Vec<Way> {
    let way = |entry, more: &[Constant], chosen, tile| {
        Way::new(&SOURCE, traits, entry, [&constants(chosen, tile)[..], more].concat())
    };
    let mut all = Vec::new();
    for chosen in [1, 2, 4, 8] {
        let flag = |name, value: bool| (name, u32::from(value));
        for on in [false, true] {
            all.push(way("choose", &[flag("ALL", on)], chosen, 1));
            all.push(way("backward", &[flag("ALL", on)], chosen, 1));
            all.extend([false, true].map(|add| way("gather", &[flag("WEIGHED", on), flag("ADD", add)], chosen, 1)));
        }
        all.extend(["count", "weigh"].map(|entry| way(entry, &[], chosen, 1)));
        for tile in [1, 2, 4, 8, BLOCK].into_iter().filter(|tile| *tile < BLOCK || traits.variant == Variant::Tile) {
            all.extend(["place", "spread"].map(|entry| way(entry, &[], chosen, tile)));
        }
    }
    all
}

/// Sends rows to experts by the router's logits `[T, E]`; with `trains` for a pass that goes backward.
///
/// # Errors
/// More experts are to be chosen than there are or than [`MOST_CHOSEN`]; shapes that do not fit; out of memory.
pub(crate) fn route(rec: &mut Recorder, logits: &Tensor, routing: Routing, trains: bool) -> Result<Routes> {
    let (gpu, rows, Routing { experts, chosen, all }) = (rec.gpu(), logits.rows(), routing);
    if !(1..=experts.min(MOST_CHOSEN)).contains(&chosen) || logits.cols() != experts {
        let what = format!("{chosen} of {experts} experts by logits {:?}", logits.shape());
        return Err(Error::Bug(format!("{what}; 1 to {MOST_CHOSEN} of them can be chosen")));
    }
    let taken = rows * chosen;
    let tile = tile_of(&Traits::of(rec), taken, experts, trains);
    // An expert with rows leaves at most all but one place of a tile empty.
    let tiles = (taken + taken.min(experts) * (tile - 1)) / tile;
    let routes = Routes {
        routing,
        rows,
        tile,
        tiles,
        chosen: gpu.empty(rows, chosen)?,
        weight: gpu.empty(rows, chosen)?,
        places: gpu.empty(rows, chosen)?,
        expert: gpu.empty(1, tiles)?,
        row: gpu.empty(1, tiles * tile)?,
        ranges: gpu.empty(1, 2 * experts)?,
    };
    let counted = gpu.empty(1, 2 * experts)?;
    let params = routes.params(logits.ld(), 0);
    let mut launch = |entry, constants, bind: &[&Tensor], items, cost| {
        let groups = lanes(&SOURCE, rec.variant(), items);
        rec.launch(Launch { source: &SOURCE, entry, constants, params: &params, bind, groups, cost })
    };
    let operations = (rows * experts * chosen) as f64;
    let more = [&constants(chosen, 1)[..], &[("ALL", u32::from(all))]].concat();
    let cost = Cost::new(operations, bytes(&[logits, &routes.chosen, &routes.weight]));
    launch("choose", more, &[logits, &routes.chosen, &routes.weight], rows, cost)?;
    let cost = || Cost::new((taken * experts) as f64, bytes(&[&routes.chosen]));
    launch("count", constants(chosen, 1), &[&routes.chosen, &counted], experts, cost())?;
    let Routes { chosen: by_row, expert, row, places, ranges, .. } = &routes;
    launch("place", constants(chosen, tile), &[by_row, &counted, ranges, expert, row, places], experts, cost())?;
    Ok(routes)
}

/// y `[T, D]` (+)= what experts made x `[S, D]`, of each row added up: with the router's weights, or (`weighed` false)
/// as it is.
///
/// # Errors
/// Shapes that do not fit.
pub(crate) fn gather(
    rec: &mut Recorder,
    x: &Tensor,
    routes: &Routes,
    (weighed, add): (bool, bool),
    y: &Tensor,
) -> Result<()> {
    routes.expect("what experts made", x, y)?;
    let flags = [("WEIGHED", u32::from(weighed)), ("ADD", u32::from(add))];
    rec.launch(Launch {
        source: &SOURCE,
        entry: "gather",
        constants: [&constants(routes.routing.chosen, 1)[..], &flags].concat(),
        params: &routes.params(0, y.ld()),
        bind: &[x, &routes.places, &routes.weight, y],
        groups: several(&SOURCE, rec.variant(), y.len() / 4),
        cost: stream(&[y, x], 2.0 * routes.routing.chosen as f64),
    })
}

/// The gradient by what experts made, `[S, D]`, from dy `[T, D]`; zeros in places without a row.
///
/// # Errors
/// Shapes that do not fit; out of memory.
pub(crate) fn spread(rec: &mut Recorder, dy: &Tensor, routes: &Routes) -> Result<Tensor> {
    let dx = rec.gpu().empty(routes.places(), dy.cols())?;
    routes.expect("the gradient by what experts made", &dx, dy)?;
    rec.launch(Launch {
        source: &SOURCE,
        entry: "spread",
        constants: constants(routes.routing.chosen, routes.tile),
        params: &routes.params(0, dy.ld()),
        bind: &[dy, &routes.row, &routes.weight, &routes.expert, &dx],
        groups: several(&SOURCE, rec.variant(), dx.len() / 4),
        cost: stream(&[&dx, dy], 1.0),
    })?;
    Ok(dx)
}

/// The gradient by the router's logits `[T, E]`, from what experts made x `[S, D]` and dy `[T, D]`.
///
/// # Errors
/// Shapes that do not fit; out of memory.
pub(crate) fn backward(
    rec: &mut Recorder,
    logits: &Tensor,
    x: &Tensor,
    dy: &Tensor,
    routes: &Routes,
) -> Result<Tensor> {
    routes.expect("what experts made", x, dy)?;
    routes.expect_logits(logits)?;
    let Routing { chosen, all, .. } = routes.routing;
    let (dweight, dlogits) = (rec.gpu().empty(routes.rows, chosen)?, rec.gpu().empty(routes.rows, routes.experts())?);
    rec.launch(Launch {
        source: &SOURCE,
        entry: "weigh",
        constants: constants(chosen, 1),
        params: &routes.params(0, dy.ld()),
        bind: &[x, dy, &routes.places, &dweight],
        groups: lanes(&SOURCE, rec.variant(), routes.taken()),
        cost: stream(&[x, dy], 2.0),
    })?;
    rec.launch(Launch {
        source: &SOURCE,
        entry: "backward",
        constants: [&constants(chosen, 1)[..], &[("ALL", u32::from(all))]].concat(),
        params: &routes.params(logits.ld(), 0),
        bind: &[logits, &routes.chosen, &routes.weight, &dweight, &dlogits],
        groups: lanes(&SOURCE, rec.variant(), routes.rows),
        cost: stream(&[&dlogits, logits], 4.0),
    })?;
    Ok(dlogits)
}

/// The router's choice on the host: of each row its experts and their weights, `[T, chosen]`.
pub(crate) fn twin(logits: &[f64], routing: Routing) -> (Vec<usize>, Vec<f64>) {
    let (mut chosen, mut weight) = (Vec::new(), Vec::new());
    for row in logits.chunks_exact(routing.experts) {
        let mut order: Vec<usize> = (0..routing.experts).collect();
        order.sort_by(|a, b| row[*b].total_cmp(&row[*a]));
        let part = |e: &usize| (row[*e] - row[order[0]]).exp();
        let counted = if routing.all { &order[..] } else { &order[..routing.chosen] };
        let sum: f64 = counted.iter().map(part).sum();
        weight.extend(order[..routing.chosen].iter().map(|e| part(e) / sum));
        chosen.extend(&order[..routing.chosen]);
    }
    (chosen, weight)
}

/// The gradient by the logits from that by the weights `[T, chosen]`.
pub(crate) fn twin_backward(logits: &[f64], routing: Routing, dweight: &[f64]) -> Vec<f64> {
    let (chosen, weight) = twin(logits, routing);
    let mut out = vec![0.0; logits.len()];
    for (t, row) in logits.chunks_exact(routing.experts).enumerate() {
        let of = t * routing.chosen..(t + 1) * routing.chosen;
        let mean: f64 = weight[of.clone()].iter().zip(&dweight[of.clone()]).map(|(w, d)| w * d).sum();
        let to = &mut out[t * routing.experts..(t + 1) * routing.experts];
        let top = row[chosen[of.start]];
        for (e, to) in to.iter_mut().enumerate() {
            let taken = of.clone().find(|at| chosen[*at] == e);
            let p = match taken {
                Some(at) => weight[at],
                None if routing.all => weight[of.start] * (row[e] - top).exp(),
                None => 0.0,
            };
            *to = p * (taken.map_or(0.0, |at| dweight[at]) - mean);
        }
    }
    out
}

fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for (rows, d, experts, chosen) in [(1, 8, 4, 1), (7, 10, 5, 2), (40, 33, 16, 4), (150, 20, 9, 8), (3, 4, 128, 8)] {
        for (of_all, trains) in [(false, true), (true, false)] {
            let routing = Routing { experts, chosen, all: of_all };
            let name = format!("{rows} rows to {chosen} of {experts}, all={of_all}, trains={trains}");
            let case = Case::new(name, 4e-6, move |t| {
                let (logits, hl) = t.matrix(rows, experts)?;
                let (dy, hdy) = t.matrix(rows, d)?;
                let routes = route(&mut t.rec, &logits, routing, trains)?;
                let of = hl.clone();
                t.expect_words("chosen", &routes.chosen, || twin(&of, routing).0.iter().map(|e| *e as u32).collect());
                t.expect("weight", &routes.weight, || twin(&of, routing).1);
                // Spread out and gathered again, a row's gradient comes back times the sum of its weights; weighed, of
                // their squares.
                let spread_out = spread(&mut t.rec, &dy, &routes)?;
                for (weighed, add) in [(false, true), (true, false)] {
                    let (y, before) = t.matrix(rows, d)?;
                    gather(&mut t.rec, &spread_out, &routes, (weighed, add), &y)?;
                    t.expect(&format!("gathered, weighed={weighed}"), &y, || {
                        let weight = twin(&hl, routing).1;
                        let one = |i: usize| {
                            let own = &weight[i / d * chosen..(i / d + 1) * chosen];
                            let factor: f64 = own.iter().map(|w| if weighed { w * w } else { *w }).sum();
                            factor * hdy[i] + if add { before[i] } else { 0.0 }
                        };
                        (0..rows * d).map(one).collect()
                    });
                }
                let (dz, hdz) = t.matrix(rows, d)?;
                let dlogits = backward(&mut t.rec, &logits, &spread_out, &dz, &routes)?;
                t.expect("dlogits", &dlogits, || {
                    let weight = twin(&hl, routing).1;
                    let dot = |t: usize| (0..d).map(|c| hdy[t * d + c] * hdz[t * d + c]).sum::<f64>();
                    let dweight: Vec<f64> = weight.iter().enumerate().map(|(i, w)| w * dot(i / chosen)).collect();
                    twin_backward(&hl, routing, &dweight)
                });
                Ok(())
            });
            // Of large gradients that are all alike the mean is taken off, and nothing but rounding is left.
            all.push(case.without(&[Inputs::Large]));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{dot, finite_difference, numbers};

    #[test]
    fn the_gradients_are_the_slopes() {
        for all in [false, true] {
            let routing = Routing { experts: 5, chosen: 2, all };
            let (logits, c) = (numbers(4 * 5, 1), numbers(4 * 2, 2));
            let dlogits = twin_backward(&logits, routing, &c);
            finite_difference("logits", &logits, &dlogits, |x| dot(&twin(x, routing).1, &c));
        }
    }

    #[test]
    fn tiles_are_as_full_as_they_can_be() {
        let (soft, gpu) = (Traits::plain(Variant::Soft), Traits::plain(Variant::Tile));
        let ordered = Traits { invariant: true, ..gpu };
        for (traits, taken, trains, tile) in [
            (soft, 8, false, 1),
            (soft, 3 * 128, true, 4),
            (soft, 1 << 20, true, 8),
            (gpu, 8, false, 1),
            (gpu, 8, true, BLOCK),
            (gpu, 128 * 9, false, BLOCK),
            (gpu, 128 * 3, false, 4),
            (ordered, 8, false, BLOCK),
        ] {
            assert_eq!(tile_of(&traits, taken, 128, trains), tile, "{traits:?} {taken} {trains}");
        }
    }
}
