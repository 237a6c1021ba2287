"""Embed the prompt sentences of a configuration's classes with the text side of its encoder.

python tools/make_prompts.py configs/mine.yaml        # model.encoder must embed text, such as hf:NAME

A network trained with these prompts can look for other classes by free text: infer.py --classes. Each task's table is
written to its prompt_file; an existing one is replaced only with --replace.
"""

from libs.core.cli import add_override_option, build_parser, exit_on_user_error
from libs.core.configfile import load_config
from libs.core.errors import ConfigError
from libs.core.prompts import save_prompts
from libs.datasets.annotations import load_annotations
from libs.media.encoders.build import build_encoder


@exit_on_user_error
def main() -> None:
    parser = build_parser(__doc__)
    parser.add_argument("config", metavar="CONFIG")
    parser.add_argument("--tasks", metavar="1-2-3", help="default: all of the configuration's")
    parser.add_argument("--replace", action="store_true", help="replace existing tables")
    add_override_option(parser)
    args = parser.parse_args()
    config = load_config(args.config, args.o)
    tasks = config.select_tasks(args.tasks)
    sentences = []
    for task in tasks:
        if task.prompt_file.exists() and not args.replace:
            raise ConfigError(f"{task.prompt_file}: exists; --replace replaces it")
        annotations = load_annotations(task.dataset.json_file, task.dataset.num_classes)
        names = annotations.list_class_names(task.dataset.num_classes)
        sentences.append([task.format_prompt(name) for name in names])
    encoder = build_encoder(config.model.encoder)
    for task, prompts in zip(tasks, sentences, strict=True):
        table = encoder.encode_text(prompts)
        if table.shape[1] != config.model.text_dim:
            raise ConfigError(f"{encoder.name}: embeds text in {table.shape[1]} numbers; set model.text_dim to that")
        save_prompts(task.prompt_file, table)
        print(f"{task.key}: {len(prompts)} prompts, such as {prompts[0]!r}\n    in {task.prompt_file}")


if __name__ == "__main__":
    main()
