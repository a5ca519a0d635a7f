//! Chat templates as models ship them, and conversations as people have them, each broken while the other is whole.

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use selfreward::rng::fnv;
use selfreward::text::{Message, TemplateInputs, Text};
use serde_json::{Value, json};

/// The conversations that templates are compared with transformers on.
pub(crate) fn chats() -> &'static [Value] {
    static CHATS: OnceLock<Vec<Value>> = OnceLock::new();
    CHATS.get_or_init(|| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/jinja/templates.json");
        let golden: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
        golden["chats"].as_array().unwrap().clone()
    })
}

/// The templates of the golden tokenizers, and those that `scripts/fetch-templates` put into `target/`, if it did.
pub(crate) fn templates() -> Vec<String> {
    static TEMPLATES: OnceLock<Vec<String>> = OnceLock::new();
    let read = || {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let golden = ["bytelevel", "metaspace"].map(|name| {
            let text = Text::open(&root.join("tests/golden/tokenizers").join(name)).unwrap().unwrap();
            text.chat_template().unwrap().to_owned()
        });
        let entries = fs::read_dir(root.join("target/chat_templates")).into_iter().flatten().flatten();
        let mut paths: Vec<_> = entries.map(|entry| entry.path()).collect();
        paths.retain(|path| path.extension().is_some_and(|end| end == "jinja"));
        paths.sort();
        golden.into_iter().chain(paths.iter().map(|path| fs::read_to_string(path).unwrap())).collect()
    };
    TEMPLATES.get_or_init(read).clone()
}

fn inputs(chat: &Value) -> TemplateInputs {
    let variables = chat.get("variables").and_then(Value::as_object).cloned();
    TemplateInputs { tools: chat.get("tools").cloned(), chat_template_kwargs: variables }
}

/// Renders two of the conversations by a broken template.
pub(crate) fn render(folder: &Path) {
    let Ok(source) = fs::read(folder.join("chat_template.jinja")) else { return };
    let Ok(Some(text)) = Text::open(folder) else { return };
    let hash = fnv(&source) as usize;
    for chat in [hash, hash / 64].map(|n| &chats()[n % chats().len()]) {
        let messages = chat["messages"].as_array().unwrap();
        let _ = text.encode_json_chat(messages, &inputs(chat), true);
    }
}

/// Renders a broken conversation by two of the templates.
pub(crate) fn say(folder: &Path) {
    let Ok(source) = fs::read(folder.join("chat.json")) else { return };
    let Ok(chat) = serde_json::from_slice::<Value>(&source) else { return };
    let templates = templates();
    let hash = fnv(&source) as usize;
    for template in [hash, hash / 64].map(|n| &templates[n % templates.len()]) {
        let config = json!({"chat_template": template, "bos_token": "<s>", "eos_token": "<end>"});
        fs::write(folder.join("tokenizer_config.json"), config.to_string()).unwrap();
        let Ok(Some(text)) = Text::open(folder) else { continue };
        if let Some(messages) = chat["messages"].as_array() {
            let _ = text.encode_json_chat(messages, &inputs(&chat), true);
        }
        if let Ok(messages) = serde_json::from_value::<Vec<Message>>(chat["messages"].clone()) {
            let _ = text.render(&messages, &inputs(&chat), false);
        }
    }
}

/// Reads a tokenizer with its template, and uses it.
pub(crate) fn text(folder: &Path) {
    if let Ok(Some(text)) = Text::open(folder) {
        use_text(&text);
    }
}

/// Encodes, decodes and renders.
pub(crate) fn use_text(text: &Text) {
    for sample in
        ["", "ab", " a  b\n<end>", "Grüße, 世界 🦀 don't 1234", "\u{0}\u{fffd}aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"]
    {
        if let Ok(ids) = text.encode(sample) {
            let _ = text.decode(&ids);
        }
    }
    let _ = text.decode(&[0, 1, 2, 3, 4, 5, 9, 1000, u32::MAX]);
    let mut stream = text.stream();
    for id in [3, 1, 200, 0, u32::MAX] {
        let _ = stream.push(id);
    }
    let _ = stream.finish();
    let chat = [Message::new("system", "S"), Message::new("user", "Grüße"), Message::new("assistant", "A")];
    let _ = text.encode_chat(&chat, true);
    let _ = text.render_chat(&chat[1..2], false);
    let tools = json!([{"type": "function", "function": {"name": "f", "parameters": {"a": 1}}}]);
    let _ = text.encode_json_chat(
        &[json!({"role": "user", "content": [{"type": "text", "text": "x"}]})],
        &TemplateInputs { tools: Some(tools), chat_template_kwargs: None },
        true,
    );
    let _ = (text.eos(), text.bos(), text.end_of_turn(), text.chat_template());
}
