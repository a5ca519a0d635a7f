//! A conversation with a model from the visitor's disk, which is read as it is loaded, tensor by tensor.

use crate::{HOST, Host, failed, show};
use selfreward::disk::{self, Given};
use selfreward::generate::KvType;
use selfreward::gpu::{Gpu, Options, mib};
use selfreward::rng::record_id;
use selfreward::{Error, Generator, Message, Model, ModelSource, Observer, Request, Result, Sampling, Settings, plan};
use serde::Serialize;
use std::cell::RefCell;
use std::path::PathBuf;
use wasm_bindgen::prelude::*;

/// Tokens with which a conversation is planned: those of what was said, and those of an answer.
const PLANNED: (usize, usize) = (1024, 512);

/// A model that is loaded, and what was said so far.
struct Conversation {
    gpu: Gpu,
    model: Model,
    source: ModelSource,
    messages: Vec<Message>,
}

thread_local! {
    static CONVERSATION: RefCell<Option<Conversation>> = const { RefCell::new(None) };
}

/// The file that the visitor gave last. The worker has it, and reads of it what is asked for.
#[derive(Debug)]
struct VisitorsFile {
    length: u64,
}

impl Given for VisitorsFile {
    fn length(&self) -> u64 {
        self.length
    }

    fn read(&self, at: u64, to: &mut [u8]) -> std::io::Result<()> {
        let read = HOST.with_borrow(|host| host.as_ref().map(|host| host.read(at as f64, to)));
        match read {
            Some(Ok(())) => Ok(()),
            Some(Err(thrown)) => Err(crate::host::failure(thrown)),
            None => Err(std::io::Error::other("the page is gone")),
        }
    }
}

/// What is told of a model that was loaded.
#[derive(Serialize)]
struct Loaded {
    family: String,
    parameters: usize,
    /// Bytes on the GPU: of the weights, and planned for a conversation.
    held: u64,
    planned: u64,
}

/// Loads a GGUF file of so many bytes, in at most `memory` bytes of the GPU; what does not fit is refused before its
/// weights are read. JSON.
///
/// # Errors
/// The file is no GGUF file of a known chat model; it does not fit; the device is lost.
#[wasm_bindgen(jspi)]
pub fn load(name: String, length: f64, memory: f64) -> std::result::Result<String, JsValue> {
    CONVERSATION.with_borrow_mut(|kept| *kept = None);
    let loaded = load_file(&name, length as u64, memory as u64).map_err(failed)?;
    Ok(show(&loaded))
}

fn load_file(name: &str, length: u64, memory: u64) -> Result<Loaded> {
    let name = name.replace(['/', '\\'], "-");
    let name = if name.ends_with(".gguf") { name } else { format!("{name}.gguf") };
    disk::give(&name, Box::new(VisitorsFile { length }));
    let source = ModelSource::open(&PathBuf::from("/").join(&name))?;
    if !source.text()?.has_chat_template() {
        return Err(Error::Input(format!("{name}: has no chat template, so it is no model to talk with")));
    }
    let gpu = Gpu::with(&Options::default().memory(Some(memory)))?;
    let context = source.arch.context();
    let (said, answer) = (PLANNED.0.min(context / 2).max(1), PLANNED.1.min(context / 4).max(1));
    let requests = plan::requests(source.arch.vocab_size, 1, said, 1);
    let plan =
        |memory| plan::generation(&gpu, &|gpu| Model::load(gpu, &source), &requests, (answer, KvType::F32), memory);
    let planned = match plan(Some(memory)) {
        Ok((counted, _)) => counted.peak().bytes,
        Err(Error::OutOfMemory(_)) => {
            let needed = plan(None)?.0.peak().bytes;
            return Err(Error::OutOfMemory(format!(
                "{name} needs {} MiB of the GPU's memory for a conversation, and it may take {}; allow more, or choose \
                 a file in fewer bits",
                mib(needed),
                mib(memory)
            )));
        }
        Err(other) => return Err(other),
    };
    let model = Model::load(&gpu, &source)?;
    let parameters = source.weights.names().iter().filter_map(|name| source.weights.shape(name));
    let loaded = Loaded {
        family: source.arch.model_type.clone(),
        parameters: parameters.map(|shape| shape.iter().product::<usize>()).sum(),
        held: gpu.live_bytes(),
        planned,
    };
    let conversation = Conversation { gpu, model, source, messages: Vec::new() };
    CONVERSATION.with_borrow_mut(|kept| *kept = Some(conversation));
    Ok(loaded)
}

/// Says something to the model. `host` is told the answer as it is written; the whole of it comes as JSON.
///
/// # Errors
/// No model is loaded; the conversation has become longer than the model's context; the device is lost; `host` asked
/// for a stop.
#[wasm_bindgen(jspi)]
pub fn chat(said: String, temperature: f32, host: Host) -> std::result::Result<String, JsValue> {
    // The conversation is taken out: while the answer is waited for, the page may ask for other things.
    let Some(mut conversation) = CONVERSATION.with_borrow_mut(Option::take) else {
        return Err(failed(Error::Input("no model is loaded: choose a file first".into())));
    };
    let answered = answer(&mut conversation, said, temperature, &host);
    if !matches!(answered, Err(Error::DeviceLost(_))) {
        CONVERSATION.with_borrow_mut(|kept| *kept = Some(conversation));
    }
    answered.map(|answer| show(&answer)).map_err(failed)
}

/// What is told of an answer.
#[derive(Serialize)]
struct Answer {
    text: String,
    tokens: usize,
    held: u64,
}

/// Passes a stop on; the answer itself is the progress.
struct Stop<'a>(&'a Host);

impl Observer for Stop<'_> {
    fn stop_requested(&self) -> bool {
        self.0.stop()
    }
}

fn answer(conversation: &mut Conversation, said: String, temperature: f32, host: &Host) -> Result<Answer> {
    let Conversation { gpu, model, source, messages } = conversation;
    let text = source.text()?;
    messages.push(Message::new("user", said));
    let written = (|| {
        let prompt = text.encode_chat(messages, true)?;
        let request = Request { samples: vec![record_id(0, "chat", &prompt, 0)], prompt };
        let sampling = Sampling::default().temperature(temperature);
        let settings = Settings::default().sampling(sampling).max_new_tokens(PLANNED.1).stop(source.stop_ids.clone());
        let mut stream = text.stream();
        let mut failure = None;
        let mut hear = |_: usize, _: usize, token: u32| match stream.push(token) {
            Ok(piece) => host.piece(&piece),
            Err(error) => failure = Some(error),
        };
        let outputs = Generator::new(gpu, model).run_with(&[request], &settings, &Stop(host), &mut hear)?;
        if let Some(error) = failure {
            return Err(error);
        }
        host.piece(&stream.finish()?);
        let tokens = outputs.first().and_then(|samples| samples.first()).map(|o| o.tokens.clone()).unwrap_or_default();
        Ok((text.decode(&tokens)?, tokens.len()))
    })();
    match written {
        Ok((answer, tokens)) => {
            messages.push(Message::new("assistant", answer.clone()));
            Ok(Answer { text: answer, tokens, held: gpu.live_bytes() })
        }
        Err(error) => {
            // A question without an answer is as if it had not been asked.
            messages.pop();
            Err(error)
        }
    }
}
