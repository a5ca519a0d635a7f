//! Experts' matrices and biases of which a folder has one tensor for all experts: each gets a name of its own.

use std::collections::HashSet;
use std::path::Path;

use super::stacks::{BYTES, VALUES};
use super::tensors::{Change, Entry, Weights};
use crate::arch::family::{self, InStack};
use crate::arch::{Arch, Dtype};
use crate::{Error, Result};

impl Weights {
    /// Gives each expert's matrices and biases names of their own, where a family's folders have stacks of them.
    ///
    /// # Errors
    /// A stack is missing, or has another shape than the configuration asks for; blocks without their scales.
    pub(crate) fn unstack(&mut self, path: &Path, arch: &Arch) -> Result<()> {
        if !family::is_stacked(arch) {
            return Ok(());
        }
        let mut stacks = HashSet::new();
        for (name, shape) in family::parameters(arch) {
            let Some(stack) = family::in_stack(arch, &name) else { continue };
            let entry = self.of_stack(path, &stack, shape)?;
            stacks.extend([format!("{}_blocks", stack.name), format!("{}_scales", stack.name), stack.name]);
            self.insert(name, entry);
        }
        self.forget(&stacks);
        Ok(())
    }

    /// Where one expert's part of a stack lies.
    fn of_stack(&self, path: &Path, stack: &InStack, shape: Vec<usize>) -> Result<Entry> {
        let of = |suffix: &str| self.find(&format!("{}{suffix}", stack.name));
        let expect = |suffix: &str, entry: &Entry, want: &[usize]| match entry.shape == want {
            true => Ok(()),
            false => {
                let (name, found) = (format!("{}{suffix}", stack.name), &entry.shape);
                let what = format!("tensor {name} has shape {found:?}, the configuration asks for {want:?}");
                Err(Error::file(&self.files[entry.file].path, what))
            }
        };
        if let Some(entry) = of("") {
            expect("", entry, &stack.shape)?;
            let change = Change::InStack { first: stack.first, steps: stack.steps };
            return Ok(Entry {
                file: entry.file,
                dtype: entry.dtype.clone(),
                shape,
                range: entry.range.clone(),
                change,
            });
        }
        let (Some(blocks), &[experts, ins, rows]) = (of("_blocks"), &stack.shape[..]) else {
            let what = format!("tensor {} {:?}, which the configuration asks for, is missing", stack.name, stack.shape);
            return Err(Error::file(path, what));
        };
        let Some(scales) = of("_scales") else {
            return Err(Error::file(
                path,
                format!("tensor {}_blocks has no scales: {0}_scales is missing", stack.name),
            ));
        };
        if !ins.is_multiple_of(VALUES) {
            let what = format!("tensor {}_blocks: rows of {ins} values are no blocks of {VALUES}", stack.name);
            return Err(Error::file(path, what));
        }
        expect("_blocks", blocks, &[experts, rows, ins / VALUES, BYTES])?;
        expect("_scales", scales, &[experts, rows, ins / VALUES])?;
        for (suffix, entry) in [("_blocks", blocks), ("_scales", scales)] {
            if entry.dtype != Err("U8".into()) {
                let what = format!("tensor {}{suffix} is not stored as U8, as blocks of MXFP4 are", stack.name);
                return Err(Error::file(&self.files[entry.file].path, what));
            }
        }
        // Blocks lie along the inputs: of a matrix that is turned they are those of a column.
        let first = stack.first / (ins * rows) * rows + stack.first % rows;
        let change = Change::Packed { first, step: stack.steps[0], scales: (scales.file, scales.range.clone()) };
        Ok(Entry { file: blocks.file, dtype: Ok(Dtype::Mxfp4), shape, range: blocks.range.clone(), change })
    }
}
