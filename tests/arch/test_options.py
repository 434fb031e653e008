"""The option file: what is left out has the paper's value, what is misspelt or unusable is named."""

import pytest

import segsr_arch
from segsr_arch.options import OptionError, SemanticOptions, parse
from segsr_arch.segsr_arch import backbone_options as known_options

WHERE = 'network_g:semantic'
NAMES = ['SeGSR_HAT', 'SeGSR_EDSR', 'SeGSR_RCAN', 'SeGSR_SRFormer', 'SeGSR_SwinIR', 'SeGSR_TTST']


def error_of(semantic):
    with pytest.raises(OptionError) as caught:
        parse(SemanticOptions, semantic, WHERE)
    return str(caught.value)


@pytest.mark.parametrize('given', [None, {}, {'encoder': None, 'localization': {}}, {'encoder': {}}])
def test_defaults_are_the_papers(given):
    options = parse(SemanticOptions, given, WHERE)
    assert options.guidance == 'map'
    e = options.encoder
    assert (e.model, e.pretrained, e.lora_rank, e.lora_alpha, e.lora_dropout) == ('ViT-B-16', 'openai', 32, None, 0)
    assert list(e.lora_targets) == ['qkv', 'ffn']
    chosen = options.localization
    assert (chosen.unit_descriptors, chosen.global_descriptor, chosen.scene_context) == (True, True, True)


def test_given_values_are_taken():
    options = parse(SemanticOptions, {
        'guidance': 'add', 'encoder': {'model': 'x.json', 'pretrained': None, 'lora_rank': 0, 'lora_alpha': 16,
                                       'lora_dropout': 0.05, 'lora_targets': ['qkv']},
        'localization': {'scene_context': False}}, WHERE)
    e = options.encoder
    assert (options.guidance, e.model, e.pretrained, e.lora_rank, e.lora_alpha, e.lora_dropout, e.lora_targets) == (
        'add', 'x.json', None, 0, 16, 0.05, ['qkv'])
    assert options.localization.unit_descriptors and not options.localization.scene_context


@pytest.mark.parametrize('semantic, where, key, near', [
    ({'guidence': 'map'}, WHERE, 'guidence', 'guidance'),
    ({'lora_rank': 32}, WHERE, 'lora_rank', 'there are guidance, encoder, localization'),
    ({'encoder': {'lora_rnak': 3}}, WHERE + ':encoder', 'lora_rnak', 'lora_rank'),
    ({'encoder': {'lora_drop': 0.1}}, WHERE + ':encoder', 'lora_drop', 'lora_dropout'),
    ({'localization': {'unit_descriptor': True}}, WHERE + ':localization', 'unit_descriptor', 'unit_descriptors'),
])
def test_unknown_option_of_the_semantic_block(semantic, where, key, near):
    message = error_of(semantic)
    assert message.startswith(where + ': ') and f"'{key}'" in message and near in message


@pytest.mark.parametrize('semantic, place', [
    ('map', WHERE), (['map'], WHERE), ({'encoder': 'ViT-B-16'}, WHERE + ':encoder'),
    ({'localization': [True]}, WHERE + ':localization')])
def test_block_that_is_no_block(semantic, place):
    message = error_of(semantic)
    assert message.startswith(place + ':') and 'key: value' in message


@pytest.mark.parametrize('key, value', [
    ('model', 16), ('model', None), ('pretrained', True), ('pretrained', 3), ('lora_rank', -1), ('lora_rank', 2.5),
    ('lora_rank', '32'), ('lora_rank', True), ('lora_rank', None), ('lora_alpha', 0), ('lora_alpha', -2),
    ('lora_alpha', '32'), ('lora_dropout', 1), ('lora_dropout', -0.1), ('lora_dropout', None),
    ('lora_targets', []), ('lora_targets', 'qkv'), ('lora_targets', ['q']), ('lora_targets', None),
    ('lora_targets', ['qkv', 'mlp'])])
def test_encoder_value_that_cannot_be_used(key, value):
    message = error_of({'encoder': {key: value}})
    assert message.startswith(f'{WHERE}:encoder:{key}: ') and repr(value) in message and 'must be' in message


@pytest.mark.parametrize('semantic, place, value', [
    ({'guidance': 'maps'}, 'guidance', "'maps'"), ({'guidance': None}, 'guidance', 'None'),
    ({'localization': {'scene_context': 'yes'}}, 'localization:scene_context', "'yes'"),
    ({'localization': {'unit_descriptors': 1}}, 'localization:unit_descriptors', '1'),
    ({'localization': {'global_descriptor': None}}, 'localization:global_descriptor', 'None')])
def test_other_value_that_cannot_be_used(semantic, place, value):
    message = error_of(semantic)
    assert message.startswith(f'{WHERE}:{place}: ') and value in message and 'must be' in message


def test_guidance_choices_are_named():
    assert all(kind in error_of({'guidance': 'spade'}) for kind in ('none', 'add', 'feature', 'map'))


def test_all_descriptors_off():
    message = error_of({'localization': dict.fromkeys(
        ('unit_descriptors', 'global_descriptor', 'scene_context'), False)})
    assert message.startswith(WHERE + ':localization:') and 'at least one' in message


@pytest.mark.parametrize('name, misspelt, near', [
    ('SeGSR_HAT', 'window_sise', 'window_size'), ('SeGSR_HAT', 'num_feat', 'did you mean'),
    ('SeGSR_EDSR', 'num_blocks', 'num_block'), ('SeGSR_EDSR', 'zzz', 'there are num_units, upscale, num_in_ch'),
    ('SeGSR_RCAN', 'squeeze', 'squeeze_factor'), ('SeGSR_HAT', 'semantics', 'semantic'),
    ('SeGSR_RCAN', 'numunits', 'num_units'), ('SeGSR_SwinIR', 'upsample', 'upsampler'),
    ('SeGSR_TTST', 'conv_scal', 'conv_scale'), ('SeGSR_SRFormer', 'block', 'there are num_units, img_size'),
    ('SeGSR_EDSR', 'scale', 'upscale')])
def test_unknown_option_of_the_network(options, name, misspelt, near):
    with pytest.raises(OptionError) as caught:
        getattr(segsr_arch, name)(**options(name, **{misspelt: 3}))
    message = str(caught.value)
    assert message.startswith('network_g: ') and f"'{misspelt}'" in message and near in message


@pytest.mark.parametrize('name, required', [('SeGSR_EDSR', ['num_in_ch', 'num_out_ch', 'num_units']),
                                            ('SeGSR_RCAN', ['num_in_ch', 'num_out_ch', 'num_units']),
                                            ('SeGSR_HAT', ['num_units']), ('SeGSR_SwinIR', ['num_units'])])
def test_missing_option_of_the_network(options, name, required):
    for key in required:
        given = options(name)
        del given[key]
        with pytest.raises((OptionError, TypeError), match=key):
            getattr(segsr_arch, name)(**given)


@pytest.mark.parametrize('name', NAMES)
def test_options_are_those_of_the_backbone_spelled_as_in_its_own_files(options, name):
    known = known_options(getattr(segsr_arch, name).backbone_class)
    assert set(options(name)) - {'semantic'} <= set(known)
    assert {'num_units', 'upscale', 'img_range'} <= set(known)
    assert not {'self', 'options', 'kwargs', 'block', 'path', 'overlap_attn'} & set(known)


@pytest.mark.parametrize('name', NAMES)
def test_wrong_semantic_option_reaches_the_user(options, name):
    given = options(name)
    given['semantic']['encoder']['lora_rang'] = 3
    with pytest.raises(OptionError, match="semantic:encoder: unknown option 'lora_rang'; did you mean 'lora_rank'"):
        getattr(segsr_arch, name)(**given)


def test_options_are_not_changed(options):
    """BasicSR writes the options to its log and may build a second network from them."""
    given, same = options('SeGSR_EDSR'), options('SeGSR_EDSR')
    segsr_arch.SeGSR_EDSR(**given)
    assert given == same
