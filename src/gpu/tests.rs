//! Launches whose parameters are right, and all the ways in which they are refused.

use super::params::Param;
use super::params::Value::{Float, Size, Word, Words};
use super::params::parameters;
use super::{Gpu, Launch, Source};
use crate::{Error, Result};

static SOURCE: Source = Source { name: "named", soft: TEXT, tile: TEXT, libs: &[], tile_size: 1 };

const TEXT: &str = "struct Params {
    seed: vec2u,
    rows: u32, // R, or more: as it comes
    eps: f32,
    stop: array<vec4u, 1>,
}

//@ write
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> y: array<vec4f>; // [1]
@compute @workgroup_size(WG)
fn write() {
    y[0] = vec4f(f32(p.rows), f32(p.seed.y), p.eps, f32(p.stop[0].w));
}
";

/// What the shader writes, or why the launch is refused.
fn written(params: &[Param]) -> Result<Vec<f32>> {
    let gpu = Gpu::with(&crate::gpu::Options::default())?;
    let y = gpu.zeros(1, 4)?;
    let mut rec = gpu.record();
    rec.launch(Launch {
        source: &SOURCE,
        entry: "write",
        constants: vec![],
        params,
        bind: &[&y],
        groups: [1, 1, 1],
        cost: crate::gpu::Cost::default(),
    })?;
    rec.submit()?;
    gpu.download(&y)
}

const RIGHT: [Param; 4] =
    [("seed", Words(&[1, 2])), ("rows", Size(7)), ("eps", Float(0.5)), ("stop", Words(&[3, 4, 5, 6]))];

#[test]
fn parameters_arrive_under_their_names() {
    assert_eq!(written(&RIGHT).unwrap(), [7.0, 2.0, 0.5, 6.0]);
}

#[test]
fn another_name_number_order_or_type_is_refused() {
    let with = |i: usize, param: Param<'static>| {
        let mut all = RIGHT;
        all[i] = param;
        all.to_vec()
    };
    let [seed, rows, eps, stop] = RIGHT;
    let wrong = [
        (with(1, ("row", Size(7))), "parameter 2 the shader has 'rows: u32', the launch sends 'row' (u32)"),
        (vec![seed, eps, rows, stop], "parameter 2 the shader has 'rows: u32', the launch sends 'eps' (f32)"),
        (vec![seed, rows, eps], "parameter 4 the shader has 'stop: array<vec4u, 1>', the launch sends no more"),
        (vec![seed, rows, eps, stop, eps], "parameter 5 the shader has no more, the launch sends 'eps' (f32)"),
        (with(2, ("eps", Word(1))), "parameter 3 the shader has 'eps: f32', the launch sends 'eps' (u32)"),
        (with(0, ("seed", Words(&[1]))), "parameter 1 the shader has 'seed: vec2u', the launch sends 'seed' (1 words)"),
    ];
    for (params, says) in wrong {
        let Err(Error::Bug(message)) = written(&params) else { panic!("{params:?} is taken") };
        assert_eq!(message, format!("named.write: for {says}"));
    }
}

#[test]
fn a_size_of_more_than_32_bits_is_refused() {
    let mut params = RIGHT;
    params[1].1 = Size(1 << 32);
    let Err(Error::Input(message)) = written(&params) else { panic!("it is taken") };
    assert_eq!(message, "named.write: rows is 4294967296, more than 32 bits hold; use a smaller batch");
}

#[test]
fn a_member_that_cannot_be_sent_is_named() {
    let refused = |members: &str| parameters(&format!("struct Params {{\n{members}}}\n")).unwrap_err().to_string();
    let unknown = refused("    x: vec3f,\n");
    assert!(unknown.ends_with("a launch cannot send the parameter 'x: vec3f,'"), "{unknown}");
    let gap = refused("    rows: u32,\n    seed: vec2u,\n");
    assert!(gap.ends_with("there is a gap before the parameter 'seed'"), "{gap}");
}
