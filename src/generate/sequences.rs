//! The sequences that a call of the generator writes, and the room that they take on the device.

use super::pages::PromptKey;
use super::{Request, Room, Settings};
use crate::kernels::arena::PAGE;
use crate::model::{Model, view};
use crate::{Error, Result};

/// One sequence: a sample of a request.
#[derive(Clone)]
pub(super) struct Sequence {
    pub(super) request: usize,
    pub(super) sample: usize,
    pub(super) id: u64,
    /// How many tokens the prompt has.
    pub(super) prompt: usize,
    /// Most tokens that the answer may have.
    pub(super) limit: usize,
    /// The pages of the arena that the sequence holds, in the order of its positions; none while it waits.
    pub(super) pages: Vec<u32>,
    /// Where blocks without pages remember the sequence; nobody else has it until the sequence has ended.
    pub(super) slot: u32,
}

impl Sequence {
    /// Most tokens that prompt and answer may have together.
    pub(super) fn longest(&self) -> usize {
        self.prompt + self.limit
    }

    pub(super) fn page_count(&self) -> usize {
        self.longest().div_ceil(PAGE)
    }

    /// The sequence's row of a page table that is `width` pages wide; its last page is repeated up to the end.
    pub(super) fn row(&self, width: usize) -> impl Iterator<Item = u32> {
        let last = self.pages.last().copied().unwrap_or(0);
        self.pages.iter().copied().chain(std::iter::repeat(last)).take(width)
    }
}

/// All sequences of the requests, and the keys of their prompts' pages.
pub(super) struct Sequences<'a> {
    pub(super) requests: &'a [Request],
    pub(super) settings: &'a Settings,
    /// The sequences in the order of their requests and samples.
    pub(super) list: Vec<Sequence>,
    /// Key of the prompt of each request.
    pub(super) keys: Vec<PromptKey>,
}

impl<'a> Sequences<'a> {
    pub(super) fn new(model: &Model, requests: &'a [Request], settings: &'a Settings) -> Result<Sequences<'a>> {
        let most = match settings.choices.len() {
            0 => settings.max_new_tokens,
            n => n,
        };
        let context = model.arch.context();
        let (mut list, mut keys) = (Vec::new(), Vec::new());
        for (request, r) in requests.iter().enumerate() {
            let prompt = r.prompt.len();
            let limit = most.min(context.saturating_sub(prompt));
            if limit < settings.choices.len() {
                return Err(Error::Input(format!(
                    "prompt {request} has {prompt} tokens, which leaves no room for {most} choices \
                     in a context of {context}"
                )));
            }
            keys.push(PromptKey::new(&view::classes(&model.arch, prompt + limit), &r.prompt));
            for (sample, id) in r.samples.iter().enumerate() {
                list.push(Sequence { request, sample, id: *id, prompt, limit, pages: Vec::new(), slot: 0 });
            }
        }
        Ok(Sequences { requests, settings, list, keys })
    }

    /// The room that `at_once` sequences at a time take: of `most`, no more pages than they can use.
    pub(super) fn room(&self, at_once: usize, most: &Room) -> Room {
        let largest = self.list.iter().map(Sequence::page_count).max().unwrap_or(0);
        let all = super::pages::needed(self.list.iter().map(|s| (&self.keys[s.request], s.page_count())));
        let pages = all.min(at_once * largest).min(most.pages).max(largest);
        Room { sequences: at_once, pages, ..*most }
    }

    /// Keeps the `n` sequences that take most memory: those neighbours, since neighbours begin together, whose prompts
    /// have most tokens, and the longest sequence of all.
    pub(super) fn heaviest(mut self, n: usize) -> Sequences<'a> {
        let tokens = |neighbours: &[Sequence]| -> usize {
            let prompts = neighbours.chunk_by(|a, b| a.request == b.request).filter_map(<[Sequence]>::first);
            prompts.map(|s| s.prompt).sum()
        };
        let windows = self.list.windows(n.max(1)).map(tokens).enumerate();
        let first = windows.max_by_key(|(at, tokens)| (*tokens, usize::MAX - at)).map_or(0, |(at, _)| at);
        let longest = self.list.iter().map(Sequence::longest).max().unwrap_or(0);
        let is_longest = |s: &Sequence| s.longest() == longest;
        let other = self.list.iter().position(is_longest).map(|at| self.list[at].clone());
        self.list.truncate(first + n);
        self.list.drain(..first);
        if !self.list.iter().any(is_longest) {
            self.list.pop();
            self.list.extend(other);
        }
        self
    }
}
