//! From text to token ids: the one way for generating, judging, training and measuring.
//!
//! Plain text gets the special tokens that the tokenizer's post-processor puts around a text, as `tokenizer(text)` of
//! transformers does; a rendered conversation has written its own. A prompt and its answer are encoded as one text. The
//! prompt is what that has in common, id by id, with the prompt encoded alone, as in TRL: tokens may join across the
//! border, and a template may end a question otherwise than it continues it.

use super::{Message, Prompt, TemplateInputs, Text, Words};
use crate::{Error, Result};
use std::ops::Range;

/// Token ids of a prompt and of the answers that follow it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answered {
    /// Ids of the prompt, the same before every answer; at least one, unless a text has no ids at all.
    pub prompt: Vec<u32>,
    /// Ids of each answer, in the order given.
    pub answers: Vec<Vec<u32>>,
}

/// A conversation with the turns that are to be learnt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turns {
    /// Ids of the whole conversation.
    pub ids: Vec<u32>,
    /// The assistant's turns within them, each up to its end token, in order.
    pub learnt: Vec<Range<usize>>,
}

/// How many ids both lists begin with.
fn common_prefix(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(x, y)| x == y).count()
}

impl Text {
    /// The token ids of `text`; no special ones are added.
    ///
    /// # Errors
    /// The tokenizer cannot represent the text (no unknown token), or its pattern gives up.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        self.encode_with(text, false)
    }

    /// The token ids of a text that stands for itself, with the special tokens that the tokenizer's post-processor puts
    /// around it. A text that begins with the first of them gets no second one.
    ///
    /// # Errors
    /// As [`Text::encode`].
    pub fn encode_plain(&self, text: &str) -> Result<Vec<u32>> {
        let mut ids = self.encode_special(text)?;
        if let [first, second, ..] = ids[..]
            && first == second
            && self.id_to_token(first).is_some_and(|token| !token.is_empty() && text.starts_with(&token))
        {
            ids.remove(0);
        }
        Ok(ids)
    }

    /// What the tokenizer's post-processor makes of a text, even where that doubles a token.
    ///
    /// # Errors
    /// As [`Text::encode`].
    pub fn encode_special(&self, text: &str) -> Result<Vec<u32>> {
        self.encode_with(text, true)
    }

    fn encode_with(&self, text: &str, special: bool) -> Result<Vec<u32>> {
        let encoding = self.tokenizer.encode_fast(text, special);
        Ok(encoding.map_err(|error| Error::Input(format!("the text cannot be encoded: {error}")))?.get_ids().to_vec())
    }

    /// The token ids of [`Text::render_chat`]; each special token that the template writes is a single id.
    ///
    /// # Errors
    /// As [`Text::render_chat`] and [`Text::encode`].
    pub fn encode_chat(&self, messages: &[Message], add_generation_prompt: bool) -> Result<Vec<u32>> {
        self.encode(&self.render_chat(messages, add_generation_prompt)?)
    }

    /// The token ids of a conversation up to where the assistant begins to speak.
    ///
    /// # Errors
    /// As [`Text::render_chat`] and [`Text::encode`].
    pub fn encode_asked(&self, messages: &[Message], inputs: &TemplateInputs) -> Result<Vec<u32>> {
        self.encode(&self.render(messages, inputs, true)?)
    }

    /// The token ids of a conversation up to where the assistant begins to think; `None` where `enable_thinking` makes
    /// no difference to the template.
    ///
    /// # Errors
    /// As [`Text::render_chat`] and [`Text::encode`].
    pub fn encode_thinking(&self, messages: &[Message]) -> Result<Option<Vec<u32>>> {
        if !self.has_chat_template() {
            return Ok(None);
        }
        let render = |thinks: bool| {
            let variables = [("enable_thinking".to_owned(), thinks.into())].into_iter().collect();
            let inputs = TemplateInputs { chat_template_kwargs: Some(variables), ..TemplateInputs::default() };
            self.render(messages, &inputs, true)
        };
        let thinking = render(true)?;
        if thinking == render(false)? { Ok(None) } else { self.encode(&thinking).map(Some) }
    }

    /// The token ids of a plain prompt and of answers to it, with `end`'s text behind each answer that does not end
    /// with it already. `end` is the id of the token that ends a text, if the model has one.
    ///
    /// # Errors
    /// As [`Text::encode`].
    pub fn encode_answers(&self, prompt: &str, answers: &[&str], end: Option<u32>) -> Result<Answered> {
        let written = end.and_then(|id| self.id_to_token(id)).unwrap_or_default();
        let whole = |answer: &&str| -> Result<Vec<u32>> {
            let ended = written.is_empty() || answer.ends_with(&written);
            let mut ids = self.encode_plain(&format!("{prompt}{answer}{}", if ended { "" } else { &written }))?;
            if let Some(end) = end.filter(|end| ids.last() != Some(end)) {
                ids.push(end);
            }
            Ok(ids)
        };
        let wholes = answers.iter().map(whole).collect::<Result<Vec<_>>>()?;
        Ok(cut(&self.encode_plain(prompt)?, wholes))
    }

    /// The token ids of a conversation and of its continuations, each a list of messages. What the template writes
    /// after the last end of turn is left out.
    ///
    /// # Errors
    /// As [`Text::render_chat`] and [`Text::encode`].
    pub fn encode_replies(
        &self,
        messages: &[Message],
        replies: &[&[Message]],
        inputs: &TemplateInputs,
    ) -> Result<Answered> {
        let whole = |reply: &&[Message]| self.encode(&self.render(&[messages, reply].concat(), inputs, false)?);
        let wholes = replies.iter().map(whole).collect::<Result<Vec<_>>>()?;
        let mut answered = cut(&self.encode_asked(messages, inputs)?, wholes);
        answered.answers.iter_mut().for_each(|answer| answer.truncate(self.turn_length(answer)));
        Ok(answered)
    }

    /// The token ids of the beginning of an answer, apart from the prompt's, which may lose tokens that would join with
    /// the answer's.
    ///
    /// # Errors
    /// As [`Prompt::encode`].
    pub fn encode_begun(&self, prompt: &Prompt, raw: bool, begun: &[&str]) -> Result<Answered> {
        let (alone, plain) = self.written(prompt, raw)?;
        let encode = |text: &str| if plain { self.encode_plain(text) } else { self.encode(text) };
        let wholes = begun.iter().map(|answer| encode(&format!("{alone}{answer}"))).collect::<Result<Vec<_>>>()?;
        Ok(cut(&encode(&alone)?, wholes))
    }

    /// A prompt's text up to its answer, and whether that is plain text instead of a rendered conversation.
    fn written(&self, prompt: &Prompt, raw: bool) -> Result<(String, bool)> {
        match &prompt.words {
            Words::Plain(text) if raw || !self.has_chat_template() => Ok((text.clone(), true)),
            _ => Ok((self.render(&prompt.messages(), &prompt.inputs, true)?, false)),
        }
    }

    /// The token ids of a prompt, plain or rendered.
    pub(super) fn encode_prompt(&self, prompt: &Prompt, raw: bool) -> Result<Vec<u32>> {
        let (text, plain) = self.written(prompt, raw)?;
        if plain { self.encode_plain(&text) } else { self.encode(&text) }
    }

    /// The token ids of a conversation with those of its assistant's turns that are to be learnt, or with the last of
    /// them alone.
    ///
    /// A turn begins where the conversation leaves what the template writes for the assistant to begin, and ends with
    /// its end of turn. Where a template writes earlier turns otherwise than the last one (without their thoughts), it
    /// is the turn as the whole conversation has it that counts.
    ///
    /// # Errors
    /// As [`Text::render_chat`] and [`Text::encode`].
    pub fn encode_turns(&self, messages: &[Message], inputs: &TemplateInputs, last_only: bool) -> Result<Turns> {
        let encode = |messages: &[Message], asked| self.encode(&self.render(messages, inputs, asked)?);
        let ids = encode(messages, false)?;
        let mut spoken: Vec<usize> = (0..messages.len()).filter(|i| messages[*i].is_learnt()).collect();
        if last_only {
            spoken.drain(..spoken.len().saturating_sub(1));
        }
        // Where each turn begins; a template may refuse a conversation that the assistant would open.
        let mut starts = Vec::new();
        for i in &spoken {
            let before = if *i == 0 { encode(&[], true).unwrap_or_default() } else { encode(&messages[..*i], true)? };
            starts.push(common_prefix(&before, &ids));
        }
        let mut learnt: Vec<Range<usize>> = Vec::new();
        for (at, i) in spoken.iter().enumerate() {
            let start = starts[at].max(learnt.last().map_or(0, |turn| turn.end));
            let next = starts.get(at + 1).copied().unwrap_or(ids.len());
            let (own, whole) = if i + 1 == messages.len() {
                (ids.len(), true)
            } else {
                let alone = encode(&messages[..=*i], false)?;
                let own = common_prefix(&alone, &ids);
                (own, own == alone.len())
            };
            let ends = |ids: &[u32]| self.end_of_turn.is_some_and(|end| ids.contains(&end));
            let end = match start < own && (whole || ends(&ids[start..own])) {
                true => start + self.turn_length(&ids[start..own]),
                // The turn alone is written otherwise than here: it ends with the first end of turn behind what they
                // share, in gpt-oss with another one than the last turn.
                false => {
                    let shared = own.clamp(start, next.max(start));
                    let rest = ids.get(shared..next).unwrap_or_default();
                    let first = self.end_within().and_then(|end| rest.iter().position(|id| *id == end));
                    first.map_or(start, |at| shared + at + 1)
                }
            };
            if start < end {
                learnt.push(start..end);
            }
        }
        Ok(Turns { ids, learnt })
    }

    /// How many of an answer's ids belong to its turn: up to its last end of turn.
    fn turn_length(&self, answer: &[u32]) -> usize {
        let last = self.end_of_turn.and_then(|end| answer.iter().rposition(|id| *id == end));
        last.map_or(answer.len(), |at| at + 1)
    }
}

/// Cuts the ids of prompt and answer, encoded together, where all of them leave the prompt's own ids. The first token
/// is predicted by nothing, so that it belongs to the prompt in any case.
fn cut(alone: &[u32], wholes: Vec<Vec<u32>>) -> Answered {
    let shared = wholes.iter().map(|whole| common_prefix(alone, whole)).min().unwrap_or(alone.len());
    let one = wholes.iter().map(|whole| whole.first()).collect::<Vec<_>>();
    let at = if shared == 0 && one.windows(2).all(|pair| pair[0] == pair[1]) { 1 } else { shared };
    let prompt = wholes.first().map_or_else(|| alone.to_vec(), |whole| whole[..at.min(whole.len())].to_vec());
    Answered { prompt, answers: wholes.into_iter().map(|mut whole| whole.split_off(at.min(whole.len()))).collect() }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{CHATML, byte_level};
    use super::*;
    use serde_json::json;

    fn say(role: &str, content: &str) -> Message {
        Message::new(role, content)
    }

    #[test]
    fn answers_share_the_ids_before_the_first_difference() {
        for (alone, wholes, prompt, answers) in [
            (vec![1, 2], vec![vec![1, 2, 3], vec![1, 2, 4, 5]], vec![1, 2], vec![vec![3], vec![4, 5]]),
            (vec![1, 2], vec![vec![1, 2, 3], vec![1, 9]], vec![1], vec![vec![2, 3], vec![9]]),
            (vec![], vec![vec![7, 8]], vec![7], vec![vec![8]]),
            (vec![], vec![vec![7, 8], vec![9, 8]], vec![], vec![vec![7, 8], vec![9, 8]]),
            (vec![1], vec![vec![1]], vec![1], vec![vec![]]),
        ] {
            assert_eq!(cut(&alone, wholes), Answered { prompt, answers });
        }
    }

    #[test]
    fn a_template_that_knows_thinking_is_asked_to_think() {
        let asked = |template: &str| {
            let text = byte_level(json!({"chat_template": template}));
            text.encode_thinking(&[Message::new("user", "hi")]).unwrap().map(|ids| text.decode(&ids).unwrap())
        };
        let knows =
            "{{ messages[0].content }}{% if enable_thinking is defined and not enable_thinking %} /no{% endif %}";
        assert_eq!(asked(knows).as_deref(), Some("hi"));
        assert_eq!(asked("{{ messages[0].content }}"), None);
    }

    #[test]
    fn every_turn_of_the_assistant_is_found_up_to_its_end() {
        let text = byte_level(json!({"chat_template": CHATML}));
        let talk = [say("user", "Q"), say("assistant", "AB"), say("user", "R"), say("assistant", "C")];
        let turns = text.encode_turns(&talk, &TemplateInputs::default(), false).unwrap();
        let words = |range: &Range<usize>| text.decode(&turns.ids[range.clone()]).unwrap();
        assert_eq!(turns.learnt.iter().map(words).collect::<Vec<_>>(), ["AB", "C"]);
        assert!(turns.learnt.iter().all(|turn| turns.ids[turn.end - 1] == 258));
        let last = text.encode_turns(&talk, &TemplateInputs::default(), true).unwrap();
        assert_eq!(last.learnt, turns.learnt[1..]);
        for left_out in [json!({"weight": 0}), json!({"train": false})] {
            let mut first = json!({"role": "assistant", "content": "AB"});
            first.as_object_mut().unwrap().extend(left_out.as_object().unwrap().clone());
            let talk = [talk[0].clone(), serde_json::from_value(first).unwrap(), talk[2].clone(), talk[3].clone()];
            let one = text.encode_turns(&talk, &TemplateInputs::default(), false).unwrap();
            assert_eq!(one.learnt, turns.learnt[1..], "{left_out}");
        }
        let none = text.encode_turns(&talk[..1], &TemplateInputs::default(), false).unwrap();
        assert!(none.learnt.is_empty());
    }

    /// Qwen 3 writes a thought before the last answer only, and DeepSeek opens one only where it is to answer.
    #[test]
    fn templates_that_think_keep_their_turns() {
        let thinks = "{% for m in messages %}<|im_start|>{{ m.role }}\n\
            {% if loop.last and m.role == 'assistant' %}<think>{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}\
            {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
        let opens = CHATML.replace("<|im_start|>assistant\n", "<|im_start|>assistant\n<think>\n");
        for (template, first, want) in [
            (thinks, "AB", ["AB", "<think>C"]),
            // The beginning of this turn is that of a thought as well.
            (thinks, "<b>", ["<b>", "<think>C"]),
            (opens.as_str(), "AB", ["AB", "C"]),
        ] {
            let talk = [say("user", "Q"), say("assistant", first), say("user", "R"), say("assistant", "C")];
            let text = byte_level(json!({"chat_template": template}));
            let turns = text.encode_turns(&talk, &TemplateInputs::default(), false).unwrap();
            let words = |range: &Range<usize>| text.decode(&turns.ids[range.clone()]).unwrap();
            assert_eq!(turns.learnt.iter().map(words).collect::<Vec<_>>(), want, "{template}");
        }
    }

    #[test]
    fn turns_within_a_conversation_may_end_otherwise_than_its_last_one() {
        let last = "('<s>' if loop.last and message['role'] == 'assistant' else '<|im_end|>')";
        let text = byte_level(json!({"chat_template": CHATML.replace("'<|im_end|>'", last)}));
        let talk = [say("user", "Q"), say("assistant", "AB"), say("user", "R"), say("assistant", "C")];
        let turns = text.encode_turns(&talk, &TemplateInputs::default(), false).unwrap();
        let words = |range: &Range<usize>| (text.decode(&turns.ids[range.clone()]).unwrap(), turns.ids[range.end - 1]);
        let learnt: Vec<(String, u32)> = turns.learnt.iter().map(words).collect();
        assert_eq!(learnt, [("AB".to_owned(), 258), ("C".to_owned(), 256)]);
        let asked = text.encode_turns(&talk[..3], &TemplateInputs::default(), false).unwrap();
        assert_eq!(asked.learnt, turns.learnt[..1]);
    }

    #[test]
    fn an_answer_ends_once() {
        let text = byte_level(json!({}));
        for answer in ["cd", "cd<|im_end|>"] {
            let answered = text.encode_answers("ab", &[answer, ""], Some(258)).unwrap();
            assert_eq!(answered.prompt, text.encode("ab").unwrap());
            assert_eq!(answered.answers[0], [text.encode("cd").unwrap(), vec![258]].concat());
            assert_eq!(answered.answers[1], [258]);
        }
    }
}
