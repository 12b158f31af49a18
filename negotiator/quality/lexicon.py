"""Words that tell what a prompt is about or asks for; each list is one feature (how often its words occur)."""

from __future__ import annotations

__all__ = ["DOMAINS"]

DOMAINS = {
    "mathematics": "integer integers polynomial matrix matrices vector theorem prime triangle integral derivative"
    " function sum product equation probability ring group field modulo divisor perimeter angle algebra",
    "physics": "velocity mass force energy electron photon charge magnetic electric wavelength frequency pressure"
    " temperature momentum acceleration kinetic quantum thermal current voltage kelvin joule newton circuit",
    "chemistry": "reaction mole moles acid base bond ion oxidation solution equilibrium enthalpy entropy molecule"
    " compound catalyst mathrm hydrogen carbon oxygen molar gas orbital ph nmr",
    "biology": "cell cells protein dna rna gene genes species enzyme organism membrane evolution plant animal tissue"
    " chromosome bacteria mitosis hormone",
    "medicine": "patient blood disease symptoms treatment diagnosis drug therapy clinical pain fever infection cancer"
    " physician nurse dose syndrome",
    "law": "court plaintiff defendant statute contract tort constitution liable negligence murder property jury"
    " evidence amendment federal state owner lease deed prosecution",
    "economics": "market price demand supply cost revenue inflation interest tax income profit firm firms monopoly"
    " elasticity gdp bond stock investment accounting marketing customers wage capital",
    "history": "war century empire revolution president treaty king colonial political government democracy party"
    " soviet roman slavery trade nation congress",
    "psychology": "behavior theory cognitive memory therapist anxiety learning children personality attitude social"
    " moral ethics argument belief knowledge consciousness kant utilitarianism",
    "computing": "algorithm memory processor network server database binary bit bits byte stack queue graph tree"
    " complexity compiler thread cache sql api json python javascript java rust",
    "code": "def return for while if else elif import class print len append range lambda none true false self assert"
    " function const let var int string list dict",
    "counting": "how many much total each per twice half times more less than remaining left altogether every dozen"
    " percent average hours minutes days weeks dollars cents cost costs earn spend sells bought",
    "negation": "not except incorrect false never neither nor without cannot least",
    "choice": "following which statement statements best describes true correct option options above all both",
    "solve": "calculate compute find determine evaluate solve estimate derive prove show simplify",
    "write": "write draft rewrite essay story poem email letter blog article tone creative summarize summary translate"
    " explain describe outline headline paraphrase",
    "extract": "extract classify label sentiment json schema table format list entities fields category output csv",
    "reasoning": "because therefore suppose assume given consider step reasoning explain justify hence puzzle logic",
    "greeting": "hello hi thanks please help",
}
