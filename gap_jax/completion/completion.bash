# Completes the command line of gap_jax in bash; made by: gap_jax completion bash

@TABLE@

_gap_jax_kind() {  # sets `kind` to the values of an option of the node
  local entry
  for entry in "${options[@]}"; do
    [[ ${entry%% *} == "$1" || ${entry%% *} == "$1=" ]] && kind=${entry#* } && return
  done
  kind=flag
}

_gap_jax_words() {  # offers the words that begin with the first one, each behind `start`
  local start=$1 begun=$2 word
  shift 2
  for word in "$@"; do
    [[ $word == "$begun"* ]] && COMPREPLY+=("$start$word")
  done
}

_gap_jax_config() {  # offers FILE, or FILE:part,part with one part of each kind
  local begun=$1 file parts given stem line
  local -a files=() left=() of_kind=()
  if [[ $begun != *:* ]]; then
    mapfile -t files < <(compgen -d -- "$begun" | sed 's,$,/,'; compgen -f -X '!*.py' -- "$begun")
    _gap_jax_words '' "$begun" "${_gap_jax_configs[@]}" "${files[@]}"
    compopt -o nospace 2>/dev/null
    return
  fi
  file=${begun%%:*} parts=${begun#*:} stem=${begun%%:*}
  stem=${stem##*/}
  given=
  [[ $parts == *,* ]] && given=${parts%,*},
  while read -r -a of_kind; do
    line=" ${of_kind[*]} "
    for word in ${given//,/ }; do
      [[ $line == *" $word "* ]] && of_kind=()
    done
    left+=("${of_kind[@]}")
  done < <(_gap_jax_parts "${stem%.py}")
  _gap_jax_words "$file:$given" "${parts##*,}" "${left[@]}"
  compopt -o nospace 2>/dev/null
}

_gap_jax_value() {  # offers the values of a kind that begin with the second word
  local -a words=()
  case $1 in
    file) mapfile -t COMPREPLY < <(compgen -f -- "$2"); compopt -o filenames 2>/dev/null ;;
    folder) mapfile -t COMPREPLY < <(compgen -d -- "$2"); compopt -o filenames 2>/dev/null ;;
    config) _gap_jax_config "$2" ;;
    words\ *) read -r -a words <<< "${1#words }"; _gap_jax_words '' "$2" "${words[@]}" ;;
  esac
}

_gap_jax() {
  local IFS=$' \t\n' line=${COMP_LINE:0:COMP_POINT} node='' position=0 kind=flag cut='' repeats=''
  local breaks cur='' word begun
  local -a words=() options=() commands=() places=()
  COMPREPLY=()
  # shellcheck disable=SC2162 # a backslash quotes, as on the command line
  read -a words <<< "$line"
  if [[ $line != *[[:blank:]] ]]; then
    cur=${words[-1]}
    unset 'words[-1]'
  fi
  _gap_jax_at ''
  for word in "${words[@]:1}"; do
    if [[ $kind != flag ]]; then
      kind=flag
    elif [[ $word == -*=* ]]; then
      :
    elif [[ $word == -* ]]; then
      _gap_jax_kind "$word"
    elif _gap_jax_at "${node:+$node }$word"; then
      node="${node:+$node }$word"
    else
      position=$((position + 1))
    fi
  done
  begun=$cur
  if [[ $kind != flag ]]; then
    _gap_jax_value "$kind" "$cur"
  elif [[ $cur == -*=* ]]; then
    _gap_jax_kind "${cur%%=*}"
    begun=${cur#*=} cut="${cur%%=*}="
    _gap_jax_value "$kind" "$begun"
  elif [[ $cur == -* ]]; then
    _gap_jax_words '' "$cur" "${options[@]%% *}"
    [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == *= ]] && compopt -o nospace 2>/dev/null
  elif [[ ${#commands[@]} -gt 0 ]]; then
    _gap_jax_words '' "$cur" "${commands[@]}"
  else
    [[ -n $repeats && $position -ge ${#places[@]} ]] && position=$((${#places[@]} - 1))
    _gap_jax_value "${places[position]:-any}" "$cur"
  fi
  # readline replaces only what follows the last character that breaks words
  breaks=${COMP_WORDBREAKS//[!=:@]/}
  COMPREPLY=("${COMPREPLY[@]/#/$cut}")
  if [[ -n $breaks && $cur == *["$breaks"]* ]]; then
    cut=${cur%"${cur##*["$breaks"]}"}
    COMPREPLY=("${COMPREPLY[@]#"$cut"}")
  fi
}

complete -F _gap_jax gap_jax
