//! The models of a command that come one after another: a base that they share stays on the GPU.

use crate::app::App;
use anyhow::Result;
use selfreward::gpu::Gpu;
use selfreward::model::{Base, Model, Storage};
use selfreward::source::ModelSource;
use std::time::Instant;

/// A GPU, which is opened when it is needed, and the base that was loaded last.
pub(crate) struct Models<'a> {
    app: &'a App,
    storage: Storage,
    gpu: Option<Gpu>,
    base: Option<Base>,
}

impl<'a> Models<'a> {
    /// Models whose matrices are kept in `storage`.
    pub(crate) fn new(app: &'a App, storage: Storage) -> Self {
        Self { app, storage, gpu: None, base: None }
    }

    /// The GPU, which is opened now if it is not open.
    pub(crate) fn gpu(&mut self) -> Result<&Gpu> {
        opened(&mut self.gpu, self.app)
    }

    /// The GPU with a model on it. Of a model over the base that was loaded last only the adapter is loaded.
    pub(crate) fn load(&mut self, source: &ModelSource) -> Result<(&Gpu, Model)> {
        let gpu = opened(&mut self.gpu, self.app)?;
        // Another base goes before the new one comes.
        self.base = self.base.take().filter(|base| base.is_of(source));
        let base = match self.base.take() {
            Some(base) => base,
            None => {
                self.app.progress.detail(&format!("loading {}", source.path.display()));
                Base::load(gpu, source, self.storage)?
            }
        };
        let (base, start) = (self.base.insert(base), Instant::now());
        let model = base.model(gpu, source.adapter.as_ref())?;
        if source.adapter.is_some() {
            self.app.progress.detail(&format!(
                "{} beside its base in {:.1} ms",
                source.whole().display(),
                start.elapsed().as_secs_f64() * 1e3
            ));
        }
        Ok((gpu, model))
    }
}

fn opened<'g>(gpu: &'g mut Option<Gpu>, app: &App) -> Result<&'g Gpu> {
    let open = match gpu.take() {
        Some(open) => open,
        None => app.gpu()?,
    };
    Ok(gpu.insert(open))
}
