#compdef gap_jax
# Completes the command line of gap_jax in zsh; made by: gap_jax completion zsh

@TABLE@

_gap_jax_kind() {  # sets `kind` to the values of an option of the node
  local entry
  for entry in "${options[@]}"; do
    [[ ${entry%% *} == "$1" || ${entry%% *} == "$1=" ]] && kind=${${entry#* }%%$'\t'*} && return
  done
  kind=flag
}

_gap_jax_describe() {  # offers entries 'NAME KIND<tab>HELP'; further words go to compadd
  local entry name
  local -a names texts
  for entry in "${options[@]}"; do
    name=${entry%% *}
    [[ ${name[-1]} == $1 || ( $1 == '' && ${name[-1]} != '=' ) ]] || continue
    names+=("$name")
    texts+=("$name  ${entry#*$'\t'}")
  done
  (( $#names )) && compadd "${@:2}" -l -d texts -a names
}

_gap_jax_config() {  # offers FILE, or FILE:part,part with one part of each kind
  local stem given word line
  local -a left of_kind
  if [[ $PREFIX != *:* ]]; then
    compadd -S '' -a _gap_jax_configs
    _files -S '' -g '*.py'
    return
  fi
  stem=${${PREFIX%%:*}:t:r}
  compset -P '*:'
  given=
  [[ $PREFIX == *,* ]] && given=${PREFIX%,*}
  for line in ${(f)"$(_gap_jax_parts $stem)"}; do
    of_kind=(${=line})
    for word in ${(s:,:)given}; do
      (( ${of_kind[(Ie)$word]} )) && of_kind=()
    done
    left+=($of_kind)
  done
  compset -P '*,'
  compadd -S '' -a left
}

_gap_jax_value() {  # offers the values of a kind
  case $1 in
    file) _files ;;
    folder) _files -/ ;;
    config) _gap_jax_config ;;
    words\ *) compadd -- ${=1#words } ;;
  esac
}

_gap_jax() {
  local node='' kind=flag repeats='' word
  local -a options commands places
  integer position=0
  _gap_jax_at ''
  for word in "${(@Q)words[2,CURRENT-1]}"; do
    if [[ $kind != flag ]]; then
      kind=flag
    elif [[ $word == -*=* ]]; then
      :
    elif [[ $word == -* ]]; then
      _gap_jax_kind "$word"
    elif _gap_jax_at "${node:+$node }$word"; then
      node="${node:+$node }$word"
    else
      position=position+1
    fi
  done
  if [[ $kind != flag ]]; then
    _gap_jax_value "$kind"
  elif [[ $PREFIX == -*=* ]]; then
    _gap_jax_kind "${PREFIX%%=*}"
    compset -P 1 '*='
    _gap_jax_value "$kind"
  elif [[ $PREFIX == -* ]]; then
    _gap_jax_describe ''
    _gap_jax_describe '=' -S ''
  elif (( $#commands )); then
    _describe command commands
  else
    [[ -n $repeats ]] && (( position >= $#places )) && position=$#places-1
    _gap_jax_value "${places[position+1]:-any}"
  fi
}

if [[ $funcstack[1] == _gap_jax ]]; then
  _gap_jax "$@"
else
  compdef _gap_jax gap_jax
fi
