//! The small world from outside: its model folder is an ordinary one.

use selfreward::source::ModelSource;
use selfreward::text::Message;
use selfreward::world;

#[test]
fn the_seed_models_folder_reads_like_any_other() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path().join("M1");
    let tensors = world::seed_model().unwrap();
    world::save(&dir, &tensors).unwrap();
    let source = ModelSource::open(&dir).unwrap();
    assert!(source.warnings.is_empty(), "{:?}", source.warnings);
    assert_eq!(source.arch, world::arch());
    assert_eq!(source.tensors_f32().unwrap(), tensors);
    assert_eq!(source.stop_ids, [world::text::EOS, world::text::NEWLINE]);
    let bytes: u64 = std::fs::read_dir(&dir).unwrap().map(|f| f.unwrap().metadata().unwrap().len()).sum();
    assert!(bytes < 1_000_000, "{bytes}");
}

#[test]
fn the_tokenizer_file_encodes_as_the_world_does() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path().join("M1");
    world::save(&dir, &world::init(0)).unwrap();
    let source = ModelSource::open(&dir).unwrap();
    let text = source.text().unwrap();
    for s in ["upper: cab", "Judge\nQ: join -: fig\nA: f-i-g\nPoints: ", "EC-H- Score: 3", " ~}{|", "a  b"] {
        let ids = text.encode(s).unwrap();
        assert_eq!(ids, world::text::encode(s).unwrap(), "{s:?}");
        assert_eq!(text.decode(&ids).unwrap(), s);
    }
    let chat = text.encode_chat(&[Message::new("user", "reverse: abcd")], true).unwrap();
    assert_eq!(chat, world::text::question("reverse: abcd").unwrap());
    assert_eq!(text.vocab_size(), 128);
    assert_eq!((text.bos(), text.eos()), (Some(world::text::BOS), Some(world::text::EOS)));
}
