//! `pull`: fetches a model from the hub into the cache.

use crate::app::App;
use anyhow::Result;
use selfreward::Observer;
use selfreward::hub::{Hub, HubId};

#[derive(clap::Args)]
#[command(after_help = "\
Environment: HF_TOKEN (or `hf auth login`) for private and gated models, HF_HOME or HF_HUB_CACHE for the cache's place,
HF_ENDPOINT for a mirror, HF_HUB_OFFLINE=1 to forbid the network. The cache is that of Hugging Face's own tools.

Every --model takes an id as well and fetches what is not cached; what is cached is used as it is, without a network.
`pull` asks the hub for the newest files.")]
pub(crate) struct Args {
    /// The model: ORG/NAME, perhaps with @REVISION (a branch, a tag or a commit) behind it
    #[arg(value_name = "ID")]
    id: String,
    /// One GGUF file of a repository that has several; as a --model it is ORG/NAME/FILE.gguf
    #[arg(value_name = "FILE.gguf")]
    file: Option<String>,
}

pub(crate) fn run(app: &App, args: &Args) -> Result<()> {
    let mut id = HubId::parse(&args.id)?;
    if let Some(file) = &args.file {
        id = id.with_file(file)?;
    }
    let pulled = Hub::from_env()?.pull(&id, &app.progress)?;
    app.progress.clear();
    if app.common.json {
        return app.json(&pulled);
    }
    let fetched: u64 = pulled.files.iter().map(|file| file.fetched_bytes).sum();
    let (count, mb) = (pulled.files.len(), fetched as f64 / 1e6);
    app.progress.note(&format!("{id}: commit {}, {count} files, {mb:.1} MB fetched", pulled.commit));
    app.line(pulled.path.display().to_string())
}
