//! Which language a text is in: by its letters where these tell, else by the small words that every text has.

use super::capitals::{self, OTHER};
use super::python::is_upper;
use std::collections::HashMap;
use std::sync::LazyLock;

/// The languages that an instruction may ask for.
pub(super) const CODES: [&str; 30] = [
    "en", "es", "pt", "ar", "hi", "fr", "ru", "de", "ja", "it", "bn", "uk", "th", "ur", "ta", "te", "bg", "ko", "pl",
    "he", "fa", "vi", "ne", "sw", "kn", "mr", "gu", "pa", "ml", "fi",
];

/// Letters by their first and last one, with the language that they tell, or the group of languages that share them.
const SCRIPTS: [(u32, u32, &str); 27] = [
    (0x41, 0x5a, LATIN),
    (0x61, 0x7a, LATIN),
    (0xc0, 0x24f, LATIN),
    (0x1e00, 0x1eff, LATIN),
    (0x370, 0x3ff, "el"),
    (0x1f00, 0x1fff, "el"),
    (0x400, 0x52f, CYRILLIC),
    (0x590, 0x5ff, "he"),
    (0x600, 0x6ff, ARABIC),
    (0x750, 0x77f, ARABIC),
    (0xfb50, 0xfdff, ARABIC),
    (0xfe70, 0xfeff, ARABIC),
    (0x900, 0x97f, DEVANAGARI),
    (0x980, 0x9ff, "bn"),
    (0xa00, 0xa7f, "pa"),
    (0xa80, 0xaff, "gu"),
    (0xb80, 0xbff, "ta"),
    (0xc00, 0xc7f, "te"),
    (0xc80, 0xcff, "kn"),
    (0xd00, 0xd7f, "ml"),
    (0xe00, 0xe7f, "th"),
    (0x1100, 0x11ff, "ko"),
    (0xac00, 0xd7af, "ko"),
    (0x3040, 0x30ff, "ja"),
    (0x31f0, 0x31ff, "ja"),
    (0x3400, 0x9fff, HAN),
    (0xf900, 0xfaff, HAN),
];
const LATIN: &str = "Latin";
const CYRILLIC: &str = "Cyrillic";
const ARABIC: &str = "Arabic";
const DEVANAGARI: &str = "Devanagari";
const HAN: &str = "Han";

/// Of the languages that share letters: the letters that one alone has, and its commonest words.
const LANGUAGES: [(&str, &str, &str, &str); 38] = [
    (
        LATIN,
        "en",
        "",
        "the and of to in is that it for was on are as with you this be have not at by from or i my an \
        they we your can will would there what which when if do has all but so one about who out up more their how \
        its our he she his her me no yes am were been than them then these a us hello just like let good new time \
        name favorite world people day year work",
    ),
    (
        LATIN,
        "es",
        "ñ¿¡",
        "de la que el en y los se del las un por con una su para es al lo como más pero sus le ya o \
        este sí porque esta entre cuando muy sin sobre también me hasta hay donde quien desde todo nos son está yo mi",
    ),
    (
        LATIN,
        "pt",
        "ãõ",
        "de que não o a e do da em um para com uma os no se na por mais as dos como mas foi ao ele \
        das tem à seu sua ou ser quando muito nos já está eu também só pelo pela até isso ela são você às é meu",
    ),
    (
        LATIN,
        "fr",
        "œ",
        "de la le et les des en un du une que est pour qui dans par plus pas au sur ne se ce il sont \
        avec son nous vous je mais ou où cette ses été comme être aux elle on leur tout fait même sans mon à c'est",
    ),
    (
        LATIN,
        "de",
        "ß",
        "der die und in den von zu das mit sich des auf für ist im dem nicht ein eine als auch es an \
        werden aus er hat dass sie nach wird bei einer um am sind noch wie einem über so zum war haben nur oder ich \
        aber vor zur bis mehr durch man wir du mein kann wenn",
    ),
    (
        LATIN,
        "it",
        "",
        "di e il la che in un è per una con del non si da le dei nel al della sono come più anche ma gli \
        alla lo delle i io ha se questo mi suo o essere dal degli nella tra ci cui quando molto perché ho sul",
    ),
    (
        LATIN,
        "pl",
        "łąężźśń",
        "i w na z do się nie że jest to jak po co od za o przez dla tym ale czy był tak być go \
        przy już tylko są może które który jego jej oraz ich pod także",
    ),
    (
        LATIN,
        "vi",
        "ơưạảấầẩậắằặẹẻẽếềểệỉịọỏốồổộớờởợụủứừửựỳỵỷỹ",
        "và của là có không được cho một các trong người những \
        với để này đã tôi bạn khi đến từ như trên ra cũng đó về sẽ",
    ),
    (
        LATIN,
        "sw",
        "",
        "na ya wa kwa ni katika la za kuwa cha hii kama yake au lakini pia hiyo ili vya si sana huo mtu \
        watu wake ambayo yangu kila hivyo baada kufanya hakuna mimi wewe hiki huu wao siku wakati ambao yako sisi \
        mwa zao wetu yetu kutoka hadi bila",
    ),
    (
        LATIN,
        "fi",
        "",
        "ja on ei että se oli hän ovat joka kun mutta myös kuin niin ole minä sinä tai sen jos mitä \
        voi ne olen hänen tämä sekä mukaan vain nyt ollut olla jotka siitä minun kanssa noin tässä kuten",
    ),
    (
        LATIN,
        "nl",
        "",
        "de het een en van in is dat op te zijn met voor niet aan er om ook als dan maar bij uit nog \
        naar heeft hij ze door over wordt deze dit ik je wat kan worden hun geen was wel zij mijn wij",
    ),
    (
        LATIN,
        "sv",
        "",
        "och i att det som en på är av för med till den har inte om ett han men var jag sig från vi så \
        kan när hon eller de nu ut där vid efter under också",
    ),
    (
        LATIN,
        "da",
        "",
        "og i at det er en til på som af for den med de der ikke har et var jeg han fra vil kan om \
        eller men også blev være havde efter ud hvor noget meget",
    ),
    (
        LATIN,
        "no",
        "",
        "og i det er på som en til av for at med har de ikke den han var et jeg fra vil kan om eller men \
        også ble være hadde etter ut hvor noe mye seg",
    ),
    (
        LATIN,
        "id",
        "",
        "yang dan di dengan untuk dari dalam tidak ini itu pada adalah akan oleh ke juga karena saya \
        anda bisa ada mereka atau telah dapat kami seperti lebih tersebut sudah",
    ),
    (
        LATIN,
        "tl",
        "",
        "ang ng sa na mga ay at si ako ko mo ka hindi ito para kung siya niya nila isang namin natin \
        dahil ngunit iyon kanyang lang",
    ),
    (
        LATIN,
        "tr",
        "ğış",
        "ve bir bu da de için ile çok ne daha olarak gibi var en olan kadar ben sonra ama değil her \
        mi ya o şey biz siz nasıl",
    ),
    (
        LATIN,
        "ro",
        "ăşţșț",
        "și în de la cu nu o pe un din că este pentru mai să ce sunt care au fi dar lui fost prin \
        sau cel",
    ),
    (
        LATIN,
        "cs",
        "ěřů",
        "a v se na je že s z do o to i jako pro by ale jsem nebo jsou po jeho které který při až být \
        tak od byl jen",
    ),
    (
        LATIN,
        "sk",
        "ľĺŕô",
        "a v sa na je že s z do o to i ako pre by ale som alebo sú po jeho ktoré ktorý pri až byť \
        tak od bol len",
    ),
    (
        LATIN,
        "hu",
        "őű",
        "a az és hogy nem is egy van ez meg de volt csak már mint még azt ha el vagy aki minden nagyon",
    ),
    (LATIN, "hr", "đ", "i u je na se da za su s od o ne kao što to iz koji a ali bi ili biti sam već samo još koja"),
    (
        LATIN,
        "ca",
        "",
        "de la i el que a les en els un per amb una del és dels no es al són com més va però aquest \
        seva seu ha",
    ),
    (LATIN, "et", "", "ja on ei et ka see oli kui oma ta mis ning aga seda või nii kes siis mida veel olid ma pole"),
    (LATIN, "lv", "āēīūģķļņ", "un ir no ar uz par kas ka tas bet arī vai kā pie līdz tā šo viņš nav es"),
    (LATIN, "lt", "ėųįū", "ir yra kad į su iš tai kaip bet ne o jis buvo apie arba jo nuo tik per taip aš"),
    (LATIN, "sq", "", "e të në dhe i është për me një që nga si nuk u ka do ky kjo më por ai ishte"),
    (LATIN, "so", "", "waa iyo in ka ku oo la u ah aan ay soo si waxaa uu isaga leh kala ayaa"),
    (
        CYRILLIC,
        "ru",
        "ыэё",
        "и в не на я что он с как это по но из у за от так же для бы о вы его её мы они или был \
        есть только может",
    ),
    (CYRILLIC, "uk", "іїєґ", "і в не на що я з як це до та у за але він від для й так ви його ми вони або був є"),
    (
        CYRILLIC,
        "bg",
        "",
        "и на да се не за от в с е че като по това са но които със беше или има аз той до при ще към \
        ъ може една един много",
    ),
    (CYRILLIC, "mk", "ѓќѕџљњј", "и на да се во не за од со е што го ги како но тоа ќе ја беше или има јас тој"),
    (ARABIC, "ar", "ةىإأ", "في من على إلى أن هذا هذه التي الذي لا ما كان هو هي عن مع أو و لم قد كل بعد إذا ثم"),
    (ARABIC, "fa", "پچژگکی", "و در به از که این را با است آن برای یک می های خود تا بر هم شما ما یا شود باید من"),
    (ARABIC, "ur", "ٹڈڑںےہھ", "کے کی میں ہے اور سے کا کو اس کہ نے پر ہیں ایک بھی یہ وہ نہیں تو کر ہو آپ"),
    (
        DEVANAGARI,
        "hi",
        "",
        "के में है की और से का को पर यह हैं एक नहीं भी कि लिए तो ने हो कर मैं आप वह था अपने इस \
        या ही हम",
    ),
    (
        DEVANAGARI,
        "mr",
        "ळ",
        "आहे आणि या च्या हे आहेत तो ती ते मी नाही एक व त्या हा की साठी करून \
        होते असे आपल्या तर मध्ये",
    ),
    (
        DEVANAGARI,
        "ne",
        "",
        "छ र को मा छन् लाई गर्न हो पनि यो ले भने एक गर्ने गरेको हुन्छ थियो तथा म तपाईं हरू अनि \
        भएको लागि के",
    ),
];

/// How words end, where that tells languages apart.
const ENDINGS: [(&str, &str); 3] = [
    ("en", "tion ing ly ness 's 'll n't ould ght ed"),
    ("mr", "च्या चा ची चे ांत ात णे ला ंनी"),
    ("ne", "को मा ले हरू होस् छु छौं नु"),
];
/// How many points a word a language must have.
const LEAST: f64 = 0.15;

/// The languages of each common word.
static WORDS: LazyLock<HashMap<&str, Vec<usize>>> = LazyLock::new(|| {
    let mut words: HashMap<&str, Vec<usize>> = HashMap::new();
    for (i, (.., list)) in LANGUAGES.iter().enumerate() {
        for word in list.split_whitespace() {
            words.entry(word).or_default().push(i);
        }
    }
    words
});

fn script(c: char) -> Option<&'static str> {
    let code = c as u32;
    let holds = |&&(first, last, _): &&(u32, u32, &str)| (first..=last).contains(&code);
    SCRIPTS.iter().find(holds).filter(|_| c.is_alphabetic()).map(|(.., name)| *name)
}

/// The language of a text; `None` where it has no letters.
pub(super) fn detect(text: &str) -> Option<&'static str> {
    let mut counts: Vec<(&'static str, usize)> = Vec::new();
    for name in text.chars().filter_map(script) {
        match counts.iter_mut().find(|(known, _)| *known == name) {
            Some((_, count)) => *count += 1,
            None => counts.push((name, 1)),
        }
    }
    let count = |name: &str| counts.iter().find(|(known, _)| *known == name).map_or(0, |(_, count)| *count);
    let latin = count(LATIN);
    let other = counts.iter().map(|(_, count)| count).sum::<usize>() - latin;
    // Latin words in a text of other letters are foreign ones.
    let counted = counts.iter().filter(|(name, _)| *name != LATIN || latin * 2 >= other);
    let (most, _) = *counted.max_by_key(|(_, count)| *count)?;
    Some(match most {
        // Japanese has kana among its Han characters, Chinese has none.
        HAN if count("ja") * 20 > count(HAN) => "ja",
        HAN => "zh",
        LATIN if is_upper(text) => capitals::detect(text).unwrap_or(OTHER),
        LATIN | CYRILLIC | ARABIC | DEVANAGARI => by_words(text, most),
        other => other,
    })
}

/// The language with the most of its common words, endings and own letters. Where there are hardly any, it is none.
fn by_words(text: &str, script: &str) -> &'static str {
    let lower = text.to_lowercase();
    let mut points = [0.0; LANGUAGES.len()];
    let mut words = 0;
    let between = |c: char| c.is_ascii_punctuation() && c != '\'' || c.is_whitespace() || "।،؟«»“”—–".contains(c);
    for word in lower.split(between).map(|word| word.trim_matches('\'')) {
        words += usize::from(word.chars().any(char::is_alphabetic));
        match WORDS.get(word) {
            Some(owners) => owners.iter().for_each(|&i| points[i] += 1.0),
            None => ended(word).for_each(|i| points[i] += 0.6),
        }
    }
    for (i, (.., letters, _)) in LANGUAGES.iter().enumerate() {
        points[i] += 0.5 * lower.chars().filter(|c| letters.contains(*c)).count() as f64;
    }
    let of = |i: &usize| LANGUAGES[*i].0 == script;
    let best = (0..LANGUAGES.len()).filter(of).reduce(|best, i| if points[i] > points[best] { i } else { best });
    let found = best.filter(|i| words > 1 && points[*i] >= LEAST * words as f64).map(|i| LANGUAGES[i].1);
    match found {
        Some(found) => found,
        // Those of other letters have few languages.
        None if script != LATIN => best.map_or(OTHER, |i| LANGUAGES[i].1),
        None if words > 1 => "en",
        None => OTHER,
    }
}

/// The languages with an ending that a word has.
fn ended(word: &str) -> impl Iterator<Item = usize> {
    let has = move |ends: &&str| ends.split(' ').any(|end| word.len() > end.len() && word.ends_with(end));
    let of = |(code, _): &(&str, &str)| LANGUAGES.iter().position(|l| l.1 == *code);
    ENDINGS.iter().filter(move |(_, ends)| has(ends)).filter_map(of)
}

#[cfg(test)]
mod tests {
    use super::{CODES, LANGUAGES, SCRIPTS, detect};

    #[test]
    fn every_language_that_may_be_asked_for_can_be_told() {
        for code in CODES {
            let known = LANGUAGES.iter().any(|l| l.1 == code) || SCRIPTS.iter().any(|s| s.2 == code);
            assert!(known, "{code}");
        }
        for (text, code) in [
            ("The weather is nice and we are going to the park.", "en"),
            ("El tiempo es bueno y vamos al parque.", "es"),
            ("O tempo está bom e nós vamos ao parque.", "pt"),
            ("Il fait beau et nous allons au parc.", "fr"),
            ("Das Wetter ist schön und wir gehen in den Park.", "de"),
            ("Il tempo è bello e andiamo al parco.", "it"),
            ("Pogoda jest ładna i idziemy do parku.", "pl"),
            ("Thời tiết đẹp và chúng tôi đi đến công viên.", "vi"),
            ("Hali ya hewa ni nzuri na tunakwenda kwa bustani.", "sw"),
            ("Sää on kaunis ja menemme puistoon, kun aurinko paistaa.", "fi"),
            ("Погода хорошая, и мы идём в парк.", "ru"),
            ("Погода гарна, і ми йдемо до парку.", "uk"),
            ("Времето е хубаво и отиваме в парка.", "bg"),
            ("الطقس جميل ونحن ذاهبون إلى الحديقة", "ar"),
            ("هوا خوب است و ما به پارک می رویم", "fa"),
            ("موسم اچھا ہے اور ہم پارک جا رہے ہیں", "ur"),
            ("मौसम अच्छा है और हम पार्क जा रहे हैं।", "hi"),
            ("हवामान छान आहे आणि आम्ही उद्यानात जात आहोत", "mr"),
            ("मौसम राम्रो छ र हामी पार्क जाँदैछौं", "ne"),
            ("今日は天気がいいです。", "ja"),
            ("날씨가 좋습니다.", "ko"),
            ("今天天气很好。", "zh"),
        ] {
            assert_eq!(detect(text), Some(code), "{text}");
        }
        assert_eq!(detect("12345 ..."), None);
    }
}
