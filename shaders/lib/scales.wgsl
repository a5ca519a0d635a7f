// What a group of values along K is scaled by, in four columns: a value is its steps x scale + minimum.
struct Scales {
    scale: vec4f,
    minimum: vec4f,
}
