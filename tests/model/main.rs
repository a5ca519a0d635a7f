//! Models: read, kept in memory, scored and decoded.

mod experts;
mod forest;
mod gguf;
mod gguf_file;
mod gguf_files;
mod invariance;
mod profile;
mod quants;
mod records;
mod reference;
mod storage;
mod text;
mod weights;
