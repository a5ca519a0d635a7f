//! What is fed: one row a kind of file, with its seeds and the reader that users reach.

use std::fs;
use std::path::{Path, PathBuf};

use selfreward::arch::Dtype;
use selfreward::arch::{NamedTensor, family};
use selfreward::config::RunConfig;
use selfreward::data::examples::Rules;
use selfreward::data::{answers, examples, import, records};
use selfreward::json::read_jsonl;
use selfreward::judge::Template;
use selfreward::measure::agreement;
use selfreward::measure::tasks::{TASKS, report, score_responses};
use selfreward::source::{ModelSource, save_gguf_adapter};
use selfreward::text::Text;
use selfreward::weights::{ModelParts, save_gguf, save_model_parts};
use serde_json::{Value, json};

use crate::chats;
use crate::mutate::Format;
use crate::tokenizers::{tokenizer, tokenizers};

/// A kind of file.
pub(crate) struct Target {
    pub(crate) name: &'static str,
    pub(crate) format: Format,
    /// Where the input is written in the target's folder.
    pub(crate) file: &'static str,
    /// Its share of the inputs.
    pub(crate) weight: u64,
    /// Fills the folder with the files that stay as they are and gives valid files to start from.
    pub(crate) seeds: fn(&Path) -> Vec<Vec<u8>>,
    /// Reads the input as users do.
    pub(crate) feed: fn(&Path),
}

pub(crate) const TARGETS: &[Target] = &[
    Target {
        name: "safetensors",
        format: Format::Safetensors,
        file: "model.safetensors",
        weight: 12,
        seeds: |folder| {
            let mut seeds = Vec::new();
            for dtype in [Dtype::F32, Dtype::F16, Dtype::BF16] {
                save(folder, &config("llama"), dtype);
                seeds.push(read(&folder.join("model.safetensors")));
            }
            seeds
        },
        feed: model,
    },
    Target {
        name: "gguf",
        format: Format::Gguf,
        file: "model.gguf",
        weight: 16,
        seeds: |folder| {
            let mut seeds = Vec::new();
            let path = folder.join("model.gguf");
            let tokenizers = ["bytelevel", "metaspace"].map(|name| golden(&format!("tokenizers/{name}")));
            for model_type in
                ["llama", "qwen3", "mistral", "phi3", "ministral3", "gemma2", "gemma3_text", "granite", "olmo3"]
            {
                for (folder, dtype) in tokenizers.iter().zip([Dtype::F32, Dtype::Q8_0]) {
                    let text = Text::open(folder).unwrap();
                    let mut config = config(model_type);
                    config["vocab_size"] = text.as_ref().unwrap().vocab_size().into();
                    if model_type == "ministral3" {
                        // The class's own rope is in no key, where a file has to say it.
                        config["rope_parameters"] = json!({
                            "rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0, "mscale": 1.0, "mscale_all_dim": 1.0,
                            "original_max_position_embeddings": 16, "llama_4_scaling_beta": 0.1
                        });
                    }
                    let parts = ModelParts {
                        config: &config,
                        generation_config: None,
                        text: text.as_ref(),
                        tensors: &tensors(&config),
                        dtype,
                    };
                    // A tokenizer that the format cannot hold is no seed.
                    if save_gguf(&path, &parts).is_ok() {
                        seeds.push(read(&path));
                    }
                    save_gguf(&path, &ModelParts { text: None, ..parts }).unwrap();
                    seeds.push(read(&path));
                }
            }
            seeds.extend(quantised(&path));
            seeds
        },
        feed: |folder| model(&folder.join("model.gguf")),
    },
    Target {
        name: "config",
        format: Format::Json,
        file: "config.json",
        weight: 16,
        seeds: |folder| {
            save(folder, &config("llama"), Dtype::F32);
            let models = [
                "gemma3",
                "granite",
                "granite4",
                "llama",
                "llama_bias",
                "mistral",
                "olmo2",
                "olmo3",
                "phi3",
                "qwen2",
                "qwen3",
                "rope_dynamic",
                "rope_linear",
                "rope_yarn",
                "smollm3",
                "tied",
            ];
            let golden = models.map(|name| read(&golden(name).join("config.json")));
            golden.into_iter().chain([config("llama").to_string().into_bytes()]).collect()
        },
        feed: model,
    },
    Target {
        name: "generation_config",
        format: Format::Json,
        file: "generation_config.json",
        weight: 1,
        seeds: |folder| {
            save(folder, &config("llama"), Dtype::F32);
            vec![json!({"eos_token_id": [1, 2], "bos_token_id": 1, "temperature": 0.6}).to_string().into_bytes()]
        },
        feed: model,
    },
    Target {
        name: "index",
        format: Format::Json,
        file: "model.safetensors.index.json",
        weight: 4,
        seeds: |folder| {
            save(folder, &config("llama"), Dtype::F32);
            let shard = "model-00001-of-00001.safetensors";
            fs::rename(folder.join("model.safetensors"), folder.join(shard)).unwrap();
            let map: serde_json::Map<String, Value> =
                tensors(&config("llama")).into_iter().map(|tensor| (tensor.name, shard.into())).collect();
            // What a path out of the folder would find.
            fs::copy(folder.join(shard), folder.with_file_name("outside.safetensors")).unwrap();
            let index = json!({"metadata": {"total_size": 1}, "weight_map": map}).to_string();
            let outside = index.replacen(shard, "../outside.safetensors", 1);
            vec![index.into_bytes(), outside.into_bytes()]
        },
        feed: model,
    },
    Target {
        name: "adapter_config",
        format: Format::Json,
        file: "adapter_config.json",
        weight: 8,
        seeds: |folder| {
            let base = golden("llama");
            ["qv", "all", "blocks", "patterns"]
                .into_iter()
                .map(|name| {
                    let from = golden("lora").join(name);
                    fs::copy(from.join("adapter_model.safetensors"), folder.join("adapter_model.safetensors")).unwrap();
                    with_base(&from, &base)
                })
                .collect()
        },
        feed: model,
    },
    Target {
        name: "adapter_tensors",
        format: Format::Safetensors,
        file: "adapter_model.safetensors",
        weight: 4,
        seeds: |folder| {
            let from = golden("lora/qv");
            fs::write(folder.join("adapter_config.json"), with_base(&from, &golden("llama"))).unwrap();
            vec![read(&from.join("adapter_model.safetensors"))]
        },
        feed: model,
    },
    Target {
        name: "adapter_file",
        format: Format::Gguf,
        file: "adapter.gguf",
        weight: 4,
        seeds: |folder| {
            let path = folder.join("adapter.gguf");
            ["qv", "all", "patterns"]
                .into_iter()
                .map(|name| {
                    let source = ModelSource::open(&golden("lora").join(name)).unwrap();
                    save_gguf_adapter(&path, &source, source.adapter.as_ref().unwrap(), Dtype::F32).unwrap();
                    read(&path)
                })
                .collect()
        },
        feed: |folder| model(&folder.join("adapter.gguf")),
    },
    Target {
        name: "tokenizer",
        format: Format::Json,
        file: "tokenizer.json",
        weight: 16,
        seeds: |_| {
            let world = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/world/m1/tokenizer.json");
            let names = ["tokenizers/bytelevel/tokenizer.json", "tokenizers/metaspace/tokenizer.json"];
            names.map(golden).into_iter().chain([world]).map(|path| read(&path)).chain(tokenizers()).collect()
        },
        feed: chats::text,
    },
    Target {
        name: "tokenizer_config",
        format: Format::Json,
        file: "tokenizer_config.json",
        weight: 6,
        seeds: |folder| {
            tokenizer(folder);
            let names = ["bytelevel", "metaspace"];
            names.map(|name| read(&golden("tokenizers").join(name).join("tokenizer_config.json"))).into()
        },
        feed: chats::text,
    },
    Target {
        name: "chat_template",
        format: Format::Jinja,
        file: "chat_template.jinja",
        weight: 8,
        seeds: |folder| {
            tokenizer(folder);
            let names = ["bytelevel", "metaspace"];
            let template = |name: &str| {
                let text = Text::open(&golden("tokenizers").join(name)).unwrap().unwrap();
                text.chat_template().unwrap().as_bytes().to_vec()
            };
            names.into_iter().map(template).chain([CHATML.as_bytes().to_vec()]).collect()
        },
        feed: chats::text,
    },
    Target {
        name: "real_template",
        format: Format::Jinja,
        file: "chat_template.jinja",
        weight: 5,
        seeds: |folder| {
            tokenizer(folder);
            chats::templates().into_iter().map(String::into_bytes).collect()
        },
        feed: chats::render,
    },
    Target {
        name: "chat",
        format: Format::Json,
        file: "chat.json",
        weight: 3,
        seeds: |folder| {
            tokenizer(folder);
            chats::chats().iter().map(|chat| chat.to_string().into_bytes()).collect()
        },
        feed: chats::say,
    },
    Target {
        name: "judge_template",
        format: Format::Jinja,
        file: "judge.txt",
        weight: 2,
        seeds: |_| {
            let prompts = Path::new(env!("CARGO_MANIFEST_DIR")).join("prompts");
            vec![read(&prompts.join("yes.txt")), b"{{ question }}\n{{ answer }}\nScore:".to_vec()]
        },
        feed: |folder| {
            let Ok(text) = fs::read_to_string(folder.join("judge.txt")) else { return };
            let template = Template::message(&text);
            let _ = template.fill("Why?", "Because.");
            let _ = template.fill_pair("Why?", "Because.", "So.");
        },
    },
    Target {
        name: "training_records",
        format: Format::JsonLines,
        file: "records.jsonl",
        weight: 12,
        seeds: |folder| {
            save(&folder.join("model"), &config("llama"), Dtype::F32);
            let chat = |role: &str, text: &str| json!([{"role": role, "content": text}]);
            let records = [
                json!({"prompt": "ab", "chosen": "a", "rejected": "b", "weight": 0.5, "flip": 0.1}),
                json!({"chosen": "ab a", "rejected": "ab b"}),
                json!({"prompt": chat("user", "a"), "chosen": chat("assistant", "a"),
                       "rejected": chat("assistant", "b")}),
                json!({"prompt_ids": [1, 2], "chosen_ids": [1], "rejected_ids": [2]}),
                json!({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "ab"}],
                       "label": true}),
                json!({"prompt": "ab", "completion": "a", "label": false}),
                json!({"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}], "label": 1}),
                json!({"instruction": "a", "input": "b", "output": "ab", "label": 0}),
                json!({"text": "abab", "label": true}),
                json!({"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]},
                                    {"role": "assistant", "content": null, "tool_calls": [{"a": 1}]}],
                       "tools": [{"a": 1}], "chat_template_kwargs": {"x": false}}),
                json!({"prompt_ids": [1, 2], "completion_ids": [1, 2], "label": true}),
            ];
            let mut seeds: Vec<Vec<u8>> = records.iter().map(|r| format!("{r}\n{r}\n").into_bytes()).collect();
            seeds.extend(["llama/pairs.jsonl", "llama/sft.jsonl", "losses/labelled.jsonl"].map(|f| read(&golden(f))));
            seeds
        },
        feed: |folder| {
            thread_local!(static MODEL: std::cell::OnceCell<ModelSource> = const { std::cell::OnceCell::new() });
            let path = folder.join("records.jsonl");
            MODEL.with(|cell| {
                let source = cell.get_or_init(|| ModelSource::open(&folder.join("model")).unwrap());
                for truncate in [false, true] {
                    let rules = Rules { truncate, ..Rules::up_to(12) };
                    let _ = examples::pairs(&path, source, rules);
                    let _ = examples::examples(&path, source, rules);
                    let _ = examples::labelled(&path, source, rules);
                }
            });
        },
    },
    Target {
        name: "ranked_records",
        format: Format::JsonLines,
        file: "ranked.jsonl",
        weight: 10,
        seeds: |_| {
            let reply = |text: &str, rank: f64| {
                json!({"message_id": text, "parent_id": "q", "text": text, "role": "assistant", "lang": "en",
                       "rank": rank, "replies": []})
            };
            let root = json!({"message_id": "q", "parent_id": null, "text": "Q?", "role": "prompter", "lang": "en",
                              "replies": [reply("a", 0.0), reply("b", 1.0)]});
            let records = [
                vec![json!({ "prompt": root })],
                vec![root, reply("a", 0.0), reply("b", 1.0)],
                vec![json!({"prompt": "Q?", "chosen": "a", "rejected": "b"})],
                vec![json!({"prompt": "Q?", "response": "a", "score": 4.5, "verdict": "good"})],
                vec![
                    json!({"prompt": "Q?", "response": "a", "rank": 0}),
                    json!({"prompt": "Q?", "response": "b", "rank": 1}),
                ],
                vec![json!({"instruction": "Q?", "responses": ["a", "b"], "scores": [1, 0.5], "ranks": [0, 1]})],
                vec![
                    json!({"instruction": "Q?", "output": "a", "tokens": 3}),
                    json!({"prompt": "R?", "answers": ["a", "b"]}),
                ],
                vec![json!([{"prompt": [{"role": "user", "content": "Q?"}], "response": "a", "rank": 0}])],
            ];
            let lines =
                |records: &Vec<Value>| records.iter().map(|r| format!("{r}\n")).collect::<String>().into_bytes();
            records.iter().map(lines).collect()
        },
        feed: |folder| {
            let path = folder.join("ranked.jsonl");
            if let Ok((questions, _)) = import::read(&path, "en") {
                let _ = import::examples(&questions, 4.0);
                let _ = import::preferences(&questions, true, 0.5);
                if let Ok(lessons) = import::lessons(&questions, &Template::message("{{ question }} {{ answer }}")) {
                    let _ = import::balance(lessons, 0.4, 1);
                }
                let _ = import::hold_out(questions, 0.5, 1);
            }
            if let Ok(ranked) = agreement::read_ranked(&path) {
                let scored: Vec<_> =
                    ranked.iter().map(|r| (r.prompt.as_str(), Some(r.score), Some(r.score * 0.5))).collect();
                let _ = agreement::agreement("fuzz", &scored);
            }
            if let Ok(prompts) = answers::read_prompts(&path) {
                let _ = answers::read_answers(&path, &prompts);
            }
            let _ = read_jsonl::<records::SeedRecord>(&path);
        },
    },
    Target {
        name: "checked_tasks",
        format: Format::JsonLines,
        file: "task.jsonl",
        weight: 10,
        seeds: |_| {
            let mut seeds = vec![read(&golden("ifeval.jsonl"))];
            let lines = String::from_utf8(seeds[0].clone()).unwrap();
            // One at a time, so that a change meets each kind.
            seeds.extend(lines.lines().map(|line| format!("{line}\n").into_bytes()));
            let records = [
                json!({"question": "Q?", "answer": "2 + 2 = <<2+2=4>>4\n#### 4", "response": "#### $1,004."}),
                json!({"prompt": "Q?", "answer": ["a", 4, "B"], "response": "It is\n**b**."}),
                json!({"prompt": "Q?", "pattern": "^(a|b?)+(?<=x)[^c]{2,3}$", "response": "abababababababababab"}),
                json!({"question": "Q?", "choices": ["a", "b"], "answer": "B", "response": "b"}),
                json!({"context": "Q", "choices": {"text": ["a", "b"], "label": ["1", "2"]}, "answerKey": "2",
                       "prompt": "Q", "response": "a"}),
            ];
            seeds.extend(records.iter().map(|r| format!("{r}\n").into_bytes()));
            seeds
        },
        feed: |folder| {
            let path = folder.join("task.jsonl");
            for known in &TASKS {
                let Ok(task) = known.open(&path) else { continue };
                for item in 0..task.len().min(8) {
                    let words = [task.ask(item), task.worked(item).unwrap_or_default().to_owned(), "\n".into()];
                    words.iter().for_each(|answer| drop(task.score(item, answer)));
                    let _ = task.choices(item).map(|choices| choices.weigh(&[-1.0, -2.0]));
                }
                if let Ok(scored) = score_responses(&*task, &path, 1) {
                    let _ = report(&*task, "fuzz", &scored, &[1], 0);
                }
            }
        },
    },
    Target {
        name: "run_records",
        format: Format::JsonLines,
        file: "run.jsonl",
        weight: 4,
        seeds: |_| {
            let records = [
                json!({"id": "1", "round": 1, "prompt": "Q", "source": "self", "key": "2", "seed": 0, "tokens": 3}),
                json!({"id": "1", "prompt_id": "2", "round": 1, "sample": 0, "seed": 0, "text": "a", "token_ids": [1],
                       "tokens": 1, "stopped": true}),
                json!({"id": "1", "prompt_id": "2", "candidate_ids": ["3"], "round": 1, "seed": 0, "mode": "sampled",
                       "score": 3.5, "status": "ok", "texts": ["Score: 3"], "unparsed": 0, "tokens": 9}),
            ];
            records.iter().map(|r| format!("{r}\n{r}\n").into_bytes()).collect()
        },
        feed: |folder| {
            let path = folder.join("run.jsonl");
            let _ = read_jsonl::<records::PromptRecord>(&path);
            let _ = read_jsonl::<records::CandidateRecord>(&path);
            let verdicts = read_jsonl::<records::VerdictRecord>(&path).unwrap_or_default();
            for text in verdicts.iter().flat_map(|v| &v.texts) {
                let _ = selfreward::judge::parse_score(text);
                let _ = selfreward::judge::parse_choice(text);
            }
            let _ = read_jsonl::<records::PairRecord>(&path);
        },
    },
    Target {
        name: "run_configuration",
        format: Format::Toml,
        file: "run.toml",
        weight: 10,
        seeds: |_| {
            let configs = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs");
            ["smollm2.toml", "reference.toml"].map(|name| read(&configs.join(name))).into()
        },
        feed: |folder| {
            if let Ok(config) = RunConfig::read(&folder.join("run.toml")) {
                let _ = config.table();
                let _ = config.round();
            }
        },
    },
];

const CHATML: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + \
    '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn config(model_type: &str) -> Value {
    json!({
        "model_type": model_type, "vocab_size": 8, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 64,
        "rms_norm_eps": 1e-6, "tie_word_embeddings": true, "eos_token_id": 2, "query_pre_attn_scalar": 16,
        "pad_token_id": null
    })
}

fn tensors(config: &Value) -> Vec<NamedTensor> {
    let one = |(name, shape): (String, Vec<usize>)| {
        let n: usize = shape.iter().product();
        NamedTensor { name, shape, data: (0..n).map(|i| (i % 97) as f32 / 97.0 - 0.5).collect() }
    };
    family::parameters(&family::arch(config).unwrap()).into_iter().map(one).collect()
}

fn save(folder: &Path, config: &Value, dtype: Dtype) {
    let tensors = tensors(config);
    let template = "{% for m in messages %}{{ m.content }}<end>{% endfor %}";
    save_model_parts(folder, &ModelParts { config, generation_config: None, text: None, tensors: &tensors, dtype })
        .unwrap();
    tokenizer(folder);
    let config = json!({"chat_template": template, "eos_token": "<end>"});
    fs::write(folder.join("tokenizer_config.json"), config.to_string()).unwrap();
}

/// A GGUF file for each kind of block: zeros in place of the values, since only the sizes matter.
fn quantised(path: &Path) -> Vec<Vec<u8>> {
    let config = {
        let mut config = config("llama");
        for key in ["hidden_size", "intermediate_size"] {
            config[key] = 256.into();
        }
        config["head_dim"] = 128.into();
        config
    };
    let mut tensors = tensors(&config);
    tensors.iter_mut().for_each(|tensor| tensor.data.fill(0.0));
    let parts =
        ModelParts { config: &config, generation_config: None, text: None, tensors: &tensors, dtype: Dtype::F32 };
    save_gguf(path, &parts).unwrap();
    let plain = read(path);
    // An F32 matrix is longer than any quantised one, so its place holds the blocks too.
    let retyped = |number: u32| {
        let mut file = plain.clone();
        for name in ["attn_q.weight", "ffn_up.weight", "ffn_down.weight"] {
            let name = format!("blk.0.{name}");
            let at = file.windows(name.len()).position(|w| w == name.as_bytes()).unwrap() + name.len();
            let kind = at + 4 + 2 * 8;
            file[kind..kind + 4].copy_from_slice(&number.to_le_bytes());
        }
        file
    };
    [2, 3, 6, 7, 8, 12, 13, 14, 30].map(retyped).into()
}

fn with_base(adapter: &Path, base: &Path) -> Vec<u8> {
    let mut config: Value = serde_json::from_slice(&read(&adapter.join("adapter_config.json"))).unwrap();
    config["base_model_name_or_path"] = json!(base);
    config.to_string().into_bytes()
}

/// Opens a model and uses all that is read later.
fn model(path: &Path) {
    let Ok(source) = ModelSource::open(path) else { return };
    for name in source.weights.names() {
        let file = source.weights.file_of(name).unwrap();
        let inside = file.starts_with(path) || source.adapter.is_some();
        assert!(inside, "{} is outside of {}", file.display(), path.display());
    }
    let _ = source.arch.context();
    if let Ok(tensors) = source.tensors_f32() {
        assert!(tensors.iter().all(|t| t.data.iter().all(|v| v.is_finite())), "a value that is not finite was let in");
        assert!(tensors.iter().all(|t| t.data.len() == t.shape.iter().product::<usize>()), "a tensor of another size");
    }
    if let Some(text) = &source.text {
        chats::use_text(text);
    }
}
