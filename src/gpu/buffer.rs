//! GPU memory: tensors over pooled buffers, upload and download.

use super::ledger::{Ledger, Part};
use super::{Gpu, Inner, lock, wait};
use crate::{Error, Result};
use std::any::TypeId;
use std::num::NonZeroU64;
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::thread::ThreadId;

/// A wgpu buffer; launches that still wait for their submit hold it too.
pub(super) struct Raw {
    pub(super) buffer: wgpu::Buffer,
    /// Bytes that tensors may have, from `first` on.
    pub(super) bytes: u64,
    /// Where they begin: behind the words that stand around a guarded tensor.
    pub(super) first: u64,
    /// Bytes of the tensor that it was made for, where nobody may write behind them ([`super::Options::guarded`]).
    pub(super) guarded: Option<u64>,
}

/// Buffers whose tensor is gone, kept for the next tensor of about their size; and what the others hold.
#[derive(Default)]
pub(super) struct Pool {
    free: Vec<(Arc<Raw>, ThreadId)>,
    pub(super) ledger: Ledger,
}

impl Pool {
    /// A free buffer of at least `bytes` and at most a quarter more, and not more than there is `room`. One that a
    /// recorded launch still uses may serve as scratch for launches recorded after it, so only on the thread that
    /// records them; and the host must not write into it: `write_buffer` takes effect before every pass of the next
    /// submit.
    fn take(&mut self, bytes: u64, room: u64, host_writes: bool) -> Option<Arc<Raw>> {
        let here = std::thread::current().id();
        let fits = |r: &Raw| r.bytes >= bytes && r.bytes <= (bytes + bytes / 4 + 1024).min(room);
        let free = |(r, by): &(Arc<Raw>, ThreadId)| Arc::strong_count(r) == 1 || (!host_writes && *by == here);
        let all = self.free.iter().enumerate().filter(|(_, f)| fits(&f.0) && free(f));
        let best = all.min_by_key(|(_, f)| f.0.bytes)?.0;
        Some(self.free.swap_remove(best).0)
    }

    /// Lets go of the free buffers where together they exceed `room`.
    fn trim(&mut self, room: u64) {
        if self.free.iter().map(|(r, _)| r.bytes).sum::<u64>() > room {
            self.free.retain(|(r, _)| Arc::strong_count(r) > 1);
        }
    }
}

struct Owned {
    raw: Option<Arc<Raw>>,
    part: Part,
    home: Weak<Inner>,
}

impl Drop for Owned {
    fn drop(&mut self) {
        if let (Some(raw), Some(home)) = (self.raw.take(), self.home.upgrade()) {
            let mut pool = lock(&home.pool);
            pool.ledger.remove(self.part, raw.bytes);
            if raw.guarded.is_none() {
                pool.free.push((raw, std::thread::current().id()));
            }
        }
    }
}

/// A matrix (or a vector: one row) of 4-byte elements on the GPU. Rows are stored `ld` elements apart, `cols` rounded
/// up to a multiple of 4, so that every row can be read as vec4; what lies between is zero in weights and ignored
/// elsewhere.
#[derive(Clone)]
pub(crate) struct Tensor {
    // `rows` x `ld` elements lie within the buffer: shaders run without bounds checks, so nobody else may set these.
    rows: usize,
    cols: usize,
    ld: usize,
    own: Arc<Owned>,
}

/// `n` rounded up to a multiple of 4.
pub(crate) fn pad4(n: usize) -> usize {
    n.div_ceil(4) * 4
}

impl Tensor {
    /// All words of a buffer that something else owns.
    pub(super) fn whole(raw: &Arc<Raw>) -> Tensor {
        let words = raw.bytes as usize / 4;
        Tensor {
            rows: 1,
            cols: words,
            ld: words,
            own: Arc::new(Owned { raw: Some(raw.clone()), part: Part::Work, home: Weak::new() }),
        }
    }

    pub(super) fn raw(&self) -> &Arc<Raw> {
        // `Owned::raw` is only emptied in its drop.
        #[expect(clippy::expect_used, reason = "emptied nowhere but in drop")]
        self.own.raw.as_ref().expect("a live tensor has its buffer")
    }

    /// The number of rows.
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// The number of columns, padding excluded.
    pub(crate) fn cols(&self) -> usize {
        self.cols
    }

    /// The distance between two rows, in elements.
    pub(crate) fn ld(&self) -> usize {
        self.ld
    }

    /// The first `rows` rows and `cols` columns, in the same memory; the padding of rows may count as columns.
    ///
    /// # Errors
    /// More rows or columns than there are.
    pub(crate) fn corner(&self, rows: usize, cols: usize) -> Result<Tensor> {
        if rows > self.rows || cols > self.ld {
            let whole = [self.rows, self.ld];
            return Err(Error::Bug(format!("a tensor of {whole:?} elements has no corner [{rows}, {cols}]")));
        }
        Ok(Tensor { rows, cols, ..self.clone() })
    }

    /// Elements in memory: rows x ld.
    pub(crate) fn len(&self) -> usize {
        self.rows * self.ld
    }

    /// `[rows, cols]` for messages.
    pub(crate) fn shape(&self) -> [usize; 2] {
        [self.rows, self.cols]
    }

    /// Refuses a tensor of another shape than the kernel needs; `what` names it.
    ///
    /// # Errors
    /// [`Error::Bug`] that names both shapes: whatever a caller of the library gives is checked before.
    pub(crate) fn expect_shape(&self, what: &str, rows: usize, cols: usize) -> Result<()> {
        if self.rows == rows && self.cols == cols {
            return Ok(());
        }
        Err(Error::Bug(format!("{what} has shape {:?} where [{rows}, {cols}] is needed", self.shape())))
    }

    /// Refuses what is no vector of at least `count` elements; `what` names it.
    ///
    /// # Errors
    /// [`Error::Bug`] that names the shape and the count.
    pub(crate) fn expect_vector(&self, what: &str, count: usize) -> Result<()> {
        if self.rows == 1 && self.cols >= count {
            return Ok(());
        }
        Err(Error::Bug(format!("{what} has shape {:?} where a vector of {count} elements is needed", self.shape())))
    }
}

impl Gpu {
    fn allocate(&self, rows: usize, cols: usize, host_writes: bool) -> Result<Tensor> {
        let ld = cols.checked_next_multiple_of(4);
        let limit = self.max_binding_bytes();
        let bytes = ld.and_then(|ld| rows.checked_mul(ld)?.max(4).checked_mul(4)?.checked_next_multiple_of(256));
        let fits = ld.zip(bytes).filter(|(_, bytes)| *bytes as u64 <= limit);
        let Some((ld, bytes)) = fits.map(|(ld, bytes)| (ld, bytes as u64)) else {
            return Err(Error::OutOfMemory(format!(
                "a buffer of {} MiB is needed and {} binds at most {} MiB; shorter texts, or fewer of them at once, \
                 take smaller ones",
                // As a product of floats, which does not overflow.
                mib((4.0 * rows as f64 * cols as f64) as u64),
                self.info().name,
                mib(limit)
            )));
        };
        let mut pool = lock(&self.0.pool);
        let live = pool.ledger.live();
        let room = self.0.memory.map_or(u64::MAX, |cap| cap.saturating_sub(live));
        if bytes > room {
            return Err(Error::OutOfMemory(format!(
                "{} MiB are in use, {} more are needed and the cap is {}; use a smaller batch or raise --memory \
                 (`plan` says what fits)",
                mib(live),
                mib(bytes),
                self.cap_told()
            )));
        }
        let kept = if self.0.guarded { None } else { pool.take(bytes, room, host_writes) };
        let raw = match kept {
            Some(raw) => raw,
            None => {
                // What is kept free takes the device's memory too.
                pool.trim(room - bytes);
                Arc::new(match self.0.guarded {
                    true => self.guarded(4 * rows as u64 * ld as u64, bytes)?,
                    false => Raw { buffer: self.buffer(bytes)?, bytes, first: 0, guarded: None },
                })
            }
        };
        let part = pool.ledger.add(raw.bytes);
        let own = Arc::new(Owned { raw: Some(raw), part, home: Arc::downgrade(&self.0) });
        Ok(Tensor { rows, cols, ld, own })
    }

    pub(super) fn buffer(&self, bytes: u64) -> Result<wgpu::Buffer> {
        if let Some(stand_in) = &self.0.stand_in {
            return Ok(stand_in.clone());
        }
        let buffer = self.0.device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: bytes,
            usage: wgpu::BufferUsages::STORAGE
                | wgpu::BufferUsages::COPY_SRC
                | wgpu::BufferUsages::COPY_DST
                // For kernels of the user's own.
                | if self.0.guarded { wgpu::BufferUsages::UNIFORM } else { wgpu::BufferUsages::empty() },
            mapped_at_creation: false,
        });
        self.take_failure()?;
        Ok(buffer)
    }

    /// A `[rows, cols]` tensor with arbitrary content, for a kernel to write.
    ///
    /// # Errors
    /// Out of memory.
    pub(crate) fn empty(&self, rows: usize, cols: usize) -> Result<Tensor> {
        self.allocate(rows, cols, false)
    }

    /// A tensor for the host to write ([`Gpu::overwrite`]) before anything is submitted.
    ///
    /// # Errors
    /// Out of memory.
    pub(crate) fn room(&self, rows: usize, cols: usize) -> Result<Tensor> {
        self.allocate(rows, cols, true)
    }

    /// A `[rows, cols]` tensor from row-major host values without padding (`f32`, `u32`); padding becomes zero.
    ///
    /// # Errors
    /// Out of memory; a slice of another length than rows x cols.
    pub(crate) fn upload<T: bytemuck::Pod + Default>(&self, rows: usize, cols: usize, data: &[T]) -> Result<Tensor> {
        check_values([rows, cols], data)?;
        let tensor = self.room(rows, cols)?;
        self.overwrite(&tensor, data)?;
        Ok(tensor)
    }

    /// Gives a tensor that no unsubmitted launch uses new values, row-major and without padding; padding becomes zero.
    ///
    /// # Errors
    /// A slice of another length than rows x cols.
    pub(crate) fn overwrite<T: bytemuck::Pod + Default>(&self, tensor: &Tensor, data: &[T]) -> Result<()> {
        let Tensor { rows, cols, ld, .. } = *tensor;
        check_values([rows, cols], data)?;
        if self.counts() {
            return Ok(());
        }
        if ld == cols {
            self.write(tensor, 0, data);
        } else {
            let mut padded = vec![T::default(); rows * ld];
            for (to, from) in padded.chunks_exact_mut(ld).zip(data.chunks_exact(cols.max(1))) {
                to[..cols].copy_from_slice(from);
            }
            self.write(tensor, 0, &padded);
        }
        Ok(())
    }

    /// Gives rows of a tensor that no unsubmitted launch uses new values, from row `first` on, with their padding.
    ///
    /// # Errors
    /// What is given is no whole number of rows, or there are fewer.
    pub(crate) fn overwrite_rows<T: bytemuck::Pod>(&self, tensor: &Tensor, first: usize, padded: &[T]) -> Result<()> {
        let ld = tensor.ld.max(1);
        let (rows, left) = (padded.len() / ld, padded.len() % ld);
        if size_of::<T>() != 4 || left != 0 {
            return Err(Error::Bug(format!("{} values are no rows of a tensor {:?}", padded.len(), tensor.shape())));
        }
        check_rows(tensor, first..first + rows)?;
        self.write(tensor, first * tensor.ld, padded);
        Ok(())
    }

    /// Rows of a tensor that no unsubmitted launch uses, to be given new values with their padding.
    ///
    /// # Errors
    /// There are no such rows, or the device is out of memory.
    pub(crate) fn rows_to_write(&self, tensor: &Tensor, rows: Range<usize>) -> Result<RowsToWrite<'_>> {
        check_rows(tensor, rows.clone())?;
        let at = |row: usize| (4 * row * tensor.ld) as u64;
        let Some(bytes) = NonZeroU64::new(at(rows.end) - at(rows.start)) else {
            return Ok(RowsToWrite { gpu: self, view: None });
        };
        let raw = tensor.raw();
        let view = self.0.queue.write_buffer_with(&raw.buffer, raw.first + at(rows.start), bytes);
        self.take_failure()?;
        Ok(RowsToWrite { gpu: self, view })
    }

    /// A vector (one row) from host values.
    ///
    /// # Errors
    /// Out of memory.
    pub(crate) fn vector<T: bytemuck::Pod + Default>(&self, data: &[T]) -> Result<Tensor> {
        self.upload(1, data.len(), data)
    }

    /// A `[rows, cols]` tensor of zeros.
    ///
    /// # Errors
    /// Out of memory.
    pub(crate) fn zeros(&self, rows: usize, cols: usize) -> Result<Tensor> {
        self.upload(rows, cols, &vec![0f32; rows * cols])
    }

    /// Overwrites the tensor's memory from element `first` on; takes effect before the next submit's work.
    fn write<T: bytemuck::Pod>(&self, tensor: &Tensor, first: usize, padded: &[T]) {
        if padded.is_empty() {
            return;
        }
        let raw = tensor.raw();
        self.0.queue.write_buffer(&raw.buffer, raw.first + 4 * first as u64, bytemuck::cast_slice(padded));
        self.stage(size_of_val(padded) as u64);
    }

    /// Counts what was written and has to be taken by the device.
    fn stage(&self, bytes: u64) {
        if self.0.staged.fetch_add(bytes, Ordering::Relaxed) + bytes > STAGED {
            // Copies of what was written stay in memory until the device took them, which a submit begins.
            self.0.staged.store(0, Ordering::Relaxed);
            self.0.queue.submit([]);
            wait::submitted(&self.0.queue);
            // What goes wrong comes out at the next call that can say so.
            let _ = self.0.device.poll(wgpu::PollType::wait_indefinitely());
        }
    }

    /// Reads tensors back, row-major and without padding; waits for the GPU.
    ///
    /// # Errors
    /// Device errors.
    pub(crate) fn download_all<T: bytemuck::Pod>(&self, tensors: &[&Tensor]) -> Result<Vec<Vec<T>>> {
        let total: u64 = tensors.iter().map(|t| (t.len() * 4) as u64).sum();
        if total == 0 {
            return Ok(tensors.iter().map(|_| Vec::new()).collect());
        }
        if self.counts() {
            return Ok(tensors.iter().map(|t| vec![stand_in::<T>(); t.rows * t.cols]).collect());
        }
        let parts: Vec<(&Raw, Range<u64>)> =
            tensors.iter().map(|t| (&**t.raw(), t.raw().first..t.raw().first + (t.len() * 4) as u64)).collect();
        self.read_back(&parts, |bytes| {
            let words: &[T] = bytemuck::cast_slice(bytes);
            let mut at = 0;
            let mut all = Vec::with_capacity(tensors.len());
            for t in tensors {
                let part = &words[at..at + t.len()];
                at += t.len();
                all.push(part.chunks_exact(t.ld.max(1)).flat_map(|row| &row[..t.cols]).copied().collect());
            }
            all
        })
    }

    /// Gives `read` the bytes of parts of buffers, one after the other; waits for the GPU.
    pub(super) fn read_back<R>(&self, parts: &[(&Raw, Range<u64>)], read: impl FnOnce(&[u8]) -> R) -> Result<R> {
        let staging = self.0.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("download"),
            size: parts.iter().map(|(_, bytes)| bytes.end - bytes.start).sum::<u64>().max(4),
            usage: wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::MAP_READ,
            mapped_at_creation: false,
        });
        let mut encoder = self.0.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        let mut at = 0;
        for (raw, bytes) in parts.iter().filter(|(_, bytes)| !bytes.is_empty()) {
            encoder.copy_buffer_to_buffer(&raw.buffer, bytes.start, &staging, at, bytes.end - bytes.start);
            at += bytes.end - bytes.start;
        }
        self.0.queue.submit([encoder.finish()]);
        self.mapped(&staging, "reading back from the GPU", read)
    }

    /// Gives `read` the bytes of a buffer that can be mapped, once the GPU is done with all it was given; `doing` says
    /// in errors what for.
    pub(super) fn mapped<R>(&self, buffer: &wgpu::Buffer, doing: &str, read: impl FnOnce(&[u8]) -> R) -> Result<R> {
        let failed = |e: &dyn std::fmt::Display| Error::Device(format!("{doing}: {e}"));
        let (send, receive) = std::sync::mpsc::channel();
        buffer.map_async(wgpu::MapMode::Read, .., move |r| drop(send.send(r)));
        self.wait()?;
        match wait::received(&receive) {
            Some(Ok(())) => {}
            Some(Err(e)) => return Err(failed(&e)),
            None => return Err(Error::DeviceLost(format!("while {doing}"))),
        }
        let read = read(&buffer.get_mapped_range(..).map_err(|e| failed(&e))?);
        buffer.unmap();
        Ok(read)
    }

    /// Reads one tensor back, row-major and without padding; waits for the GPU.
    ///
    /// # Errors
    /// Device errors.
    pub(crate) fn download<T: bytemuck::Pod>(&self, tensor: &Tensor) -> Result<Vec<T>> {
        Ok(self.download_all(&[tensor])?.swap_remove(0))
    }
}

/// Bytes of uploads that may wait for the device to take them.
const STAGED: u64 = 32 << 20;

/// What is read back where bytes are only counted: zeros; of f32, -1, a log-prob with which every loss can go on.
fn stand_in<T: bytemuck::Pod>() -> T {
    let float = TypeId::of::<T>() == TypeId::of::<f32>();
    bytemuck::try_cast(if float { (-1f32).to_bits() } else { 0 }).unwrap_or_else(|_| T::zeroed())
}

/// Rows of a tensor on their way to the device, which takes them once this is dropped. Values are written to where it
/// takes them from, without a copy between; what is not written is arbitrary.
pub(crate) struct RowsToWrite<'a> {
    gpu: &'a Gpu,
    /// None where there are no rows.
    view: Option<wgpu::QueueWriteBufferView>,
}

impl RowsToWrite<'_> {
    /// Writes words, the first of them at a place counted from the first row's beginning. There must be room for them.
    pub(crate) fn put(&mut self, at: usize, words: &[u32]) {
        if let Some(view) = &mut self.view {
            view.slice(4 * at..4 * (at + words.len())).copy_from_slice(bytemuck::cast_slice(words));
        }
    }

    /// Sets all to zero.
    pub(crate) fn clear(&mut self) {
        if let Some(view) = &mut self.view {
            view.slice(..).fill(0);
        }
    }
}

impl Drop for RowsToWrite<'_> {
    fn drop(&mut self) {
        let Some(view) = self.view.take() else { return };
        let bytes = view.len() as u64;
        drop(view);
        self.gpu.stage(bytes);
    }
}

/// Refuses rows that a tensor has not.
fn check_rows(tensor: &Tensor, rows: Range<usize>) -> Result<()> {
    if rows.start <= rows.end && rows.end <= tensor.rows {
        return Ok(());
    }
    Err(Error::Bug(format!("a tensor {:?} has no rows {rows:?}", tensor.shape())))
}

fn check_values<T>([rows, cols]: [usize; 2], data: &[T]) -> Result<()> {
    if size_of::<T>() == 4 && data.len() == rows * cols {
        return Ok(());
    }
    Err(Error::Bug(format!("{} values of {} bytes do not make a tensor [{rows}, {cols}]", data.len(), size_of::<T>())))
}

/// Bytes as a person reads them, in MiB.
pub fn mib(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / f64::from(1 << 20))
}
